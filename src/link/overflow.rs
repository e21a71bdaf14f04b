//! Headers that cannot be attributes, as one JSON object: text, or `{"base64": "..."}` for what is not UTF-8.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// Writes the headers. Of two with one name the later stays.
pub fn render(headers: &[(String, Vec<u8>)]) -> String {
    let value = |value: &[u8]| match std::str::from_utf8(value) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": STANDARD.encode(value) }),
    };
    let object: Map<String, Value> = headers.iter().map(|(name, bytes)| (name.clone(), value(bytes))).collect();
    Value::Object(object).to_string()
}

/// Reads them again. `None` when it is something else.
pub fn parse(text: &str) -> Option<Vec<(String, Vec<u8>)>> {
    let object: Map<String, Value> = serde_json::from_str(text).ok()?;
    let bytes = |value: Value| match value {
        Value::String(text) => Some(text.into_bytes()),
        Value::Object(object) => STANDARD.decode(object.get("base64")?.as_str()?).ok(),
        _ => None,
    };
    object.into_iter().map(|(name, value)| Some((name, bytes(value)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_from_text() {
        let headers = [("a".to_owned(), b"x".to_vec()), ("b".to_owned(), b"\xff".to_vec())];
        assert_eq!(render(&headers), r#"{"a":"x","b":{"base64":"/w=="}}"#);
        assert_eq!(parse(&render(&headers)).unwrap(), headers);
        for other in ["", "[]", r#"{"a":1}"#, r#"{"a":{"base64":"?"}}"#] {
            assert_eq!(parse(other), None);
        }
    }
}
