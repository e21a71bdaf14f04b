//! Bodies that describe themselves: a cut, a gap, or bytes of another message show wherever they are.

/// About so many bytes are in one part of a body.
pub const PART_BYTES: usize = 20;

/// The body of the message `id`, of so many parts: `ID:1/3 ID:2/3 ID:3/3` and a newline. The command
/// `seq -f "$id:%.0f/$parts" -s ' ' 1 "$parts"` writes the same. It is one line, so it can also go through `.mq/lines`.
pub fn body(id: &str, parts: usize) -> Vec<u8> {
    let words: Vec<String> = (1..=parts).map(|part| format!("{id}:{part}/{parts}")).collect();
    format!("{}\n", words.join(" ")).into_bytes()
}

/// The id of the message that a body is, if it is that body from its first to its last byte; otherwise what is wrong with it.
pub fn read(bytes: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("{} bytes, not text: {error}", bytes.len()))?;
    let first = text.split([' ', '\n']).next().unwrap_or_default();
    let (id, parts) = first
        .split_once(":1/")
        .and_then(|(id, parts)| Some((id, parts.parse().ok()?)))
        .ok_or_else(|| format!("{} bytes that begin with {:?}", bytes.len(), first.get(..60).unwrap_or(first)))?;
    let expected = body(id, parts);
    if bytes == expected {
        return Ok(id.to_owned());
    }
    let at = bytes.iter().zip(&expected).take_while(|(is, should)| is == should).count();
    Err(format!("{id}: {} of {} bytes, wrong from byte {at}", bytes.len(), expected.len()))
}

#[test]
fn a_body_tells_whose_it_is_and_whether_it_is_whole() {
    let whole = body("q.p.7", 3);
    assert_eq!(whole, b"q.p.7:1/3 q.p.7:2/3 q.p.7:3/3\n");
    assert_eq!(read(&whole).unwrap(), "q.p.7");
    assert!(read(&whole[..whole.len() - 1]).unwrap_err().contains("wrong from byte 29"));
    assert!(read(&whole[10..]).is_err());
    assert!(read(b"").is_err());
    assert!(read(&[0; 100]).is_err());
    let mixed = String::from_utf8(whole).unwrap().replace("q.p.7:2", "q.p.8:2");
    assert!(read(mixed.as_bytes()).unwrap_err().contains("wrong from byte 14"));
}
