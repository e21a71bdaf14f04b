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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_from_text() {
        let headers = [("a".to_owned(), b"x".to_vec()), ("b".to_owned(), b"\xff".to_vec())];
        assert_eq!(render(&headers), r#"{"a":"x","b":{"base64":"/w=="}}"#);
    }
}
