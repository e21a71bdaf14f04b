//! STOMP 1.2: bytes and frames. What a peer sends takes no more memory than its limits say, and never memory for what it only announces.

use std::fmt;

/// A frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// What it is, such as `SEND`.
    pub command: String,
    /// Its headers. Of several with one name the first counts.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Its body.
    pub body: Vec<u8>,
}

/// How large a frame may be that comes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// So many bytes of command and headers.
    pub head: usize,
    /// So many headers.
    pub headers: usize,
    /// So many bytes of body.
    pub body: usize,
}

/// Why bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "what came is not STOMP: {}", self.0)
    }
}

/// In these frames nothing is escaped, so that a client that knows STOMP 1.0 only is understood.
fn is_bare(command: &str) -> bool {
    matches!(command, "CONNECT" | "CONNECTED")
}

impl Frame {
    /// Without headers and body.
    pub fn new(command: &str) -> Frame {
        Frame { command: command.to_owned(), ..Frame::default() }
    }

    /// The same with one header more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Frame {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    /// A header that is text; empty when there is none.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(self.header(name).unwrap_or_default()).into_owned()
    }

    /// Appends its bytes. Where the frame has no header `content-length`, the body must have no byte 0.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let bare = is_bare(&self.command);
        into.extend_from_slice(self.command.as_bytes());
        into.push(b'\n');
        for (name, value) in &self.headers {
            escape(name.as_bytes(), bare, into);
            into.push(b':');
            escape(value, bare, into);
            into.push(b'\n');
        }
        into.push(b'\n');
        into.extend_from_slice(&self.body);
        into.push(0);
    }
}

fn escape(text: &[u8], bare: bool, into: &mut Vec<u8>) {
    if bare {
        return into.extend_from_slice(text);
    }
    for byte in text {
        match byte {
            b'\r' => into.extend_from_slice(b"\\r"),
            b'\n' => into.extend_from_slice(b"\\n"),
            b':' => into.extend_from_slice(b"\\c"),
            b'\\' => into.extend_from_slice(b"\\\\"),
            _ => into.push(*byte),
        }
    }
}

/// Takes an escape for what it stands for. One that stands for nothing is what it looks like: some servers do not escape names.
fn unescape(text: &[u8], bare: bool) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let meant = match bytes.peek() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b'c') => b':',
            Some(b'\\') => b'\\',
            _ => 0,
        };
        if byte == b'\\' && meant != 0 && !bare {
            bytes.next();
            plain.push(meant);
        } else {
            plain.push(byte);
        }
    }
    plain
}

/// What has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A frame.
    Frame(Frame),
    /// A message whose body is larger than the limit, without it: that comes in pieces.
    Large(Frame),
    /// A piece of such a body.
    Body(Vec<u8>),
    /// Such a body has ended.
    End,
}

/// What has come and is not a whole frame yet.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    buffer: Vec<u8>,
    /// So many bytes of the buffer are done with.
    taken: usize,
    /// So many bytes of the frame are known not to end what is looked for: nothing is looked at twice.
    seen: usize,
    /// The frame whose body is awaited, and how many bytes that has, if it says so.
    head: Option<(Frame, Option<usize>)>,
    /// A body that is larger than the limit is on its way, with so many bytes to come, if it has said how many it has.
    large: Option<Option<usize>>,
}

impl Decoder {
    /// Nothing has come yet.
    pub fn new(limits: Limits) -> Decoder {
        Decoder { limits, buffer: Vec::new(), taken: 0, seen: 0, head: None, large: None }
    }

    /// More has come.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if all of it has come, or what has come of one that is too large for that. What is no frame ends the conversation.
    pub fn take(&mut self) -> Result<Option<Piece>, Malformed> {
        if let Some(left) = self.large {
            return self.body(left);
        }
        if self.head.is_none() && !self.head()? {
            return Ok(None);
        }
        let (start, length) = (self.taken, self.head.as_ref().and_then(|(_, length)| *length));
        let rest = &self.buffer[start..];
        let end = match length {
            Some(length) if length > self.limits.body => return self.begin_large(length, Some(length)),
            Some(length) if rest.len() <= length => return Ok(None),
            Some(length) if rest[length] != 0 => {
                return Err(Malformed("a body is longer than its content-length".to_owned()));
            }
            Some(length) => length,
            None => match rest[self.seen..].iter().position(|byte| *byte == 0) {
                Some(at) => self.seen + at,
                None if rest.len() > self.limits.body => return self.begin_large(rest.len(), None),
                None => {
                    self.seen = rest.len();
                    return Ok(None);
                }
            },
        };
        if end > self.limits.body {
            return self.begin_large(end, None);
        }
        let body = rest[..end].to_vec();
        self.taken = start + end + 1;
        self.seen = 0;
        Ok(self.head.take().map(|(frame, _)| Piece::Frame(Frame { body, ..frame })))
    }

    /// A message may be too large, and others come after it. Nothing else that is so large makes sense.
    fn begin_large(&mut self, bytes: usize, length: Option<usize>) -> Result<Option<Piece>, Malformed> {
        match self.head.take() {
            Some((frame, _)) if frame.command == "MESSAGE" => {
                self.seen = 0;
                self.large = Some(length);
                Ok(Some(Piece::Large(frame)))
            }
            _ => Err(Malformed(format!("a body of {bytes} bytes: more than `largest`, which is {}", self.limits.body))),
        }
    }

    /// What has come of a body that is too large.
    fn body(&mut self, left: Option<usize>) -> Result<Option<Piece>, Malformed> {
        let rest = &self.buffer[self.taken..];
        let end = match left {
            Some(left) => left.min(rest.len()),
            None => rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len()),
        };
        if end > 0 {
            let body = rest[..end].to_vec();
            self.taken += end;
            self.large = Some(left.map(|left| left - end));
            return Ok(Some(Piece::Body(body)));
        }
        match rest.first() {
            None => Ok(None),
            Some(0) => {
                self.taken += 1;
                self.large = None;
                Ok(Some(Piece::End))
            }
            Some(_) => Err(Malformed("a body is longer than its content-length".to_owned())),
        }
    }

    /// Reads command and headers, if they have come.
    fn head(&mut self) -> Result<bool, Malformed> {
        // Between frames ends of lines say only that the peer is alive.
        while self.seen == 0 && matches!(self.buffer.get(self.taken), Some(b'\n' | b'\r')) {
            self.taken += 1;
        }
        let rest = &self.buffer[self.taken..];
        let mut at = self.seen;
        let end = loop {
            let Some(newline) = rest[at..].iter().position(|byte| *byte == b'\n').map(|found| at + found) else {
                break None;
            };
            match rest[newline + 1..] {
                [b'\n', ..] => break Some((newline, newline + 2)),
                [b'\r', b'\n', ..] => break Some((newline, newline + 3)),
                [] | [b'\r'] => break None,
                _ => at = newline + 1,
            }
        };
        let length = end.map_or(rest.len(), |(head, _)| head);
        if length > self.limits.head {
            return Err(Malformed(format!("headers of more than {} bytes", self.limits.head)));
        }
        let Some((head, whole)) = end else {
            // The end of a line may be the last that has come, and is looked at again.
            self.seen = if at == 0 { 0 } else { at };
            return Ok(false);
        };
        let parsed = parse(&rest[..head], self.limits)?;
        self.taken += whole;
        self.seen = 0;
        self.head = Some(parsed);
        Ok(true)
    }
}

fn parse(head: &[u8], limits: Limits) -> Result<(Frame, Option<usize>), Malformed> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let command = lines.next().and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    if command.is_empty() || command.len() > 32 || !command.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err(Malformed("a line is no command".to_owned()));
    }
    let bare = is_bare(command);
    let mut frame = Frame::new(command);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':');
        let colon = colon.ok_or_else(|| Malformed("a header without a colon".to_owned()))?;
        if frame.headers.len() == limits.headers {
            return Err(Malformed(format!("more than {} headers", limits.headers)));
        }
        let name = String::from_utf8_lossy(&unescape(&line[..colon], bare)).into_owned();
        frame.headers.push((name, unescape(&line[colon + 1..], bare)));
    }
    let length = match frame.header("content-length") {
        None => None,
        Some(value) => {
            let length = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<usize>().ok());
            Some(length.ok_or_else(|| Malformed("a content-length that is no number".to_owned()))?)
        }
    };
    Ok((frame, length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { head: 1000, headers: 8, body: 100 };

    fn decode(bytes: &[u8], piece: usize) -> Result<Vec<Frame>, Malformed> {
        let mut decoder = Decoder::new(LIMITS);
        let mut frames = Vec::new();
        for piece in bytes.chunks(piece.max(1)) {
            decoder.feed(piece);
            while let Some(piece) = decoder.take()? {
                match piece {
                    Piece::Frame(frame) => frames.push(frame),
                    other => panic!("{other:?}"),
                }
            }
        }
        Ok(frames)
    }

    /// The same, where a message may be too large: its body as it was put together, how many pieces that had, and what comes after it.
    fn decode_large(bytes: &[u8], piece: usize) -> Result<(Frame, Vec<u8>, Vec<Frame>), Malformed> {
        let (mut decoder, mut large, mut body, mut after) = (Decoder::new(LIMITS), None, Vec::new(), Vec::new());
        let mut ended = false;
        for piece in bytes.chunks(piece) {
            decoder.feed(piece);
            while let Some(came) = decoder.take()? {
                match came {
                    Piece::Large(frame) => assert!(large.replace(frame).is_none()),
                    Piece::Body(more) => body.extend(more),
                    Piece::End => ended = true,
                    Piece::Frame(frame) => after.push(frame),
                }
                assert!(decoder.buffer.len() <= LIMITS.body + 2 * piece.len() + 100, "it is in no memory");
            }
        }
        assert!(ended);
        Ok((large.unwrap(), body, after))
    }

    /// However it comes, and whether it has said its length or not; what comes after it is not disturbed.
    #[test]
    fn a_message_that_is_too_large_comes_in_pieces() {
        for length in [101, 102, 5000] {
            let mut body: Vec<u8> = (0..length).map(|i| (i % 250) as u8 + 1).collect();
            for known in [true, false] {
                let mut sent = Frame::new("MESSAGE").with("ack", "7");
                if known {
                    body[50] = 0;
                    sent = sent.with("content-length", length.to_string());
                } else {
                    body[50] = 1;
                }
                let mut bytes = Vec::new();
                Frame { body: body.clone(), ..sent.clone() }.encode(&mut bytes);
                let after = Frame { body: b"small".to_vec(), ..Frame::new("MESSAGE") };
                after.encode(&mut bytes);
                for piece in [1, 3, 99, 100, 101, 4096, bytes.len()] {
                    assert_eq!(decode_large(&bytes, piece).unwrap(), (sent.clone(), body.clone(), vec![after.clone()]));
                }
            }
        }
    }

    #[test]
    fn frames_are_as_the_specification_has_them() {
        let sent = Frame::new("SEND").with("a:b", "x\\y\r\n").with("empty", "");
        let mut bytes = Vec::new();
        Frame { body: b"hi".to_vec(), ..sent }.encode(&mut bytes);
        assert_eq!(bytes, b"SEND\na\\cb:x\\\\y\\r\\n\nempty:\n\nhi\0");
        bytes.clear();
        Frame::new("CONNECT").with("passcode", "a:b\\c").encode(&mut bytes);
        assert_eq!(bytes, b"CONNECT\npasscode:a:b\\c\n\n\0");
        let came = b"\n\r\nMESSAGE\r\nn\\m:v:w\\\\\\q\r\nn\\m:second\r\n\r\nbody\0\n\nRECEIPT\nreceipt-id:1\n\n\0\n";
        for piece in 1..came.len() {
            let frames = decode(came, piece).unwrap();
            assert_eq!(frames.len(), 2, "{piece}");
            assert_eq!((frames[0].text("n\\m").as_str(), frames[0].body.as_slice()), ("v:w\\\\q", &b"body"[..]));
            assert_eq!((frames[1].command.as_str(), frames[1].text("receipt-id").as_str()), ("RECEIPT", "1"));
        }
    }

    #[test]
    fn what_is_no_frame_or_too_large_is_refused_before_it_has_come() {
        let long = format!("MESSAGE\nx:{}", "y".repeat(1000));
        for (bytes, told) in [
            (&b"HTTP/1.1 400\n\n"[..], "no command"),
            (b"MESSAGE\nx\n\n\0", "without a colon"),
            (b"MESSAGE\ncontent-length:x\n\n\0", "no number"),
            (b"ERROR\ncontent-length:101\n\n", "101 bytes: more than `largest`"),
            (b"MESSAGE\ncontent-length:99999999999999999999\n\n", "no number"),
            (b"MESSAGE\ncontent-length:1\n\nxy\0", "longer than its content-length"),
            (b"MESSAGE\na:\na:\na:\na:\na:\na:\na:\na:\na:\n\n", "more than 8 headers"),
            (long.as_bytes(), "more than 1000 bytes"),
            (&[&b"RECEIPT\n\n"[..], &[b'x'; 101]].concat(), "101 bytes: more than `largest`"),
        ] {
            for piece in [1, 7, bytes.len()] {
                let why = decode(bytes, piece).expect_err(told).to_string();
                assert!(why.contains(told), "{why}");
            }
        }
    }

    #[test]
    fn a_body_with_zeros_needs_its_length() {
        let frame = Frame { body: vec![0, 1, 0], ..Frame::new("MESSAGE").with("content-length", "3") };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        assert_eq!(decode(&bytes, 1).unwrap(), [frame]);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_again(
            command in "[A-Z]{1,8}",
            headers in proptest::collection::vec((".{0,8}", proptest::collection::vec(any::<u8>(), 0..12)), 0..7),
            body in proptest::collection::vec(any::<u8>(), 0..100),
            piece in 1_usize..40,
        ) {
            prop_assume!(!is_bare(&command) && headers.iter().all(|(name, _)| name != "content-length"));
            let mut frame = Frame { command, headers, body };
            frame = frame.clone().with("content-length", frame.body.len().to_string());
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            let twice = bytes.repeat(2);
            prop_assert_eq!(decode(&twice, piece).unwrap(), [frame.clone(), frame]);
        }

        #[test]
        fn any_bytes_are_a_frame_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200), piece in 1_usize..50) {
            let _ = decode(&bytes, piece);
        }
    }
}
