//! JA4 of TLS clients, as FoxIO published it (<https://github.com/FoxIO-LLC/ja4>, technical_details/JA4.md;
//! this part of JA4+ is under the BSD licence). Only a ClientHello that is whole gives a fingerprint: from a
//! list that is cut short follows a wrong one.

use sha2::{Digest as _, Sha256};

/// What a payload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// No ClientHello in a TLS record.
    None,
    /// One of which bytes are missing.
    Cut {
        /// Bytes there are.
        have: usize,
        /// Bytes that record and message have.
        need: usize,
    },
    /// A whole one that contradicts itself.
    Broken,
    /// A whole one.
    Whole(Fingerprint),
}

/// A fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint {
    /// `t13d1516h2_8daaf6152771_e5627efa2ab1`.
    pub ja4: String,
}

const RECORD: usize = 5;
const MESSAGE: usize = 4;
const SERVER_NAME: u16 = 0x0000;
const SIGNATURE_ALGORITHMS: u16 = 0x000d;
const ALPN: u16 = 0x0010;
const SUPPORTED_VERSIONS: u16 = 0x002b;

/// What a ClientHello says that JA4 looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ClientHello {
    version: u16,
    versions: Vec<u16>,
    ciphers: Vec<u16>,
    extensions: Vec<u16>,
    signatures: Vec<u16>,
    alpn: Option<Vec<u8>>,
}

/// Looks at the payload of a TCP segment (RFC 8446, 4.1.2 and 5.1).
pub fn of(payload: &[u8]) -> Hello {
    let (Some(&[22, 3, _, high, low]), Some(1)) = (payload.first_chunk::<RECORD>(), payload.get(RECORD)) else {
        return Hello::None;
    };
    let record = usize::from(u16::from_be_bytes([high, low]));
    let Some(&[_, a, b, c]) = payload.get(RECORD..).and_then(|rest| rest.first_chunk::<MESSAGE>()) else {
        return Hello::Cut { have: payload.len(), need: RECORD + record };
    };
    let message = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    // A message may go on in the next record; it is not put together here.
    let need = RECORD + record.max(MESSAGE + message);
    if payload.len() < need || record < MESSAGE + message {
        return Hello::Cut { have: payload.len(), need };
    }
    let body = payload.get(RECORD + MESSAGE..RECORD + MESSAGE + message).unwrap_or_default();
    match parse(body) {
        Some(hello) => Hello::Whole(Fingerprint { ja4: hello.ja4() }),
        None => Hello::Broken,
    }
}

/// Reads bytes from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.take(width)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A vector behind its length.
    fn vector(&mut self, width: usize) -> Option<Reader<'a>> {
        let length = self.number(width)?;
        Some(Reader(self.take(length)?))
    }

    fn pairs(&mut self) -> Option<Vec<u16>> {
        let whole = self.0.len().is_multiple_of(2);
        whole.then(|| {
            self.0.chunks_exact(2).map(|pair| pair.iter().fold(0, |n, byte| n << 8 | u16::from(*byte))).collect()
        })
    }
}

fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    let mut hello = ClientHello { version: reader.number(2)? as u16, ..ClientHello::default() };
    reader.take(32)?;
    reader.vector(1)?;
    hello.ciphers = reader.vector(2)?.pairs()?;
    reader.vector(1)?;
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = reader.vector(2)?;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)? as u16;
        let mut value = extensions.vector(2)?;
        hello.extensions.push(kind);
        match kind {
            SUPPORTED_VERSIONS => hello.versions = value.vector(1)?.pairs()?,
            SIGNATURE_ALGORITHMS => hello.signatures = value.vector(2)?.pairs()?,
            ALPN => {
                let mut names = value.vector(2)?;
                hello.alpn = if names.0.is_empty() { None } else { Some(names.vector(1)?.0.to_vec()) };
            }
            _ => {}
        }
    }
    Some(hello)
}

/// RFC 8701: both bytes are the same and end in `a`.
fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}

fn hex(values: &[u16]) -> String {
    values.iter().map(|value| format!("{value:04x}")).collect::<Vec<_>>().join(",")
}

/// The first twelve digits of SHA-256.
fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

impl ClientHello {
    fn ja4(&self) -> String {
        let real = |values: &[u16]| -> Vec<u16> { values.iter().copied().filter(|value| !is_grease(*value)).collect() };
        let (mut ciphers, all, signatures) = (real(&self.ciphers), real(&self.extensions), real(&self.signatures));
        let version = real(&self.versions).into_iter().max().unwrap_or(self.version);
        let name = if all.contains(&SERVER_NAME) { 'd' } else { 'i' };
        let alpn = alpn(self.alpn.as_deref().unwrap_or_default());
        let counts = format!("{:02}{:02}", ciphers.len().min(99), all.len().min(99));
        let mut extensions: Vec<u16> = all.into_iter().filter(|kind| !matches!(*kind, SERVER_NAME | ALPN)).collect();
        ciphers.sort_unstable();
        extensions.sort_unstable();
        let b = if ciphers.is_empty() { "0".repeat(12) } else { short_hash(&hex(&ciphers)) };
        let c = match (extensions.is_empty(), signatures.is_empty()) {
            (true, _) => "0".repeat(12),
            (_, true) => short_hash(&hex(&extensions)),
            _ => short_hash(&format!("{}_{}", hex(&extensions), hex(&signatures))),
        };
        format!("t{}{name}{counts}{alpn}_{b}_{c}", version_name(version))
    }
}

fn version_name(version: u16) -> &'static str {
    match version {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        0x0002 => "s2",
        _ => "00",
    }
}

fn alpn(value: &[u8]) -> String {
    let (Some(&first), Some(&last)) = (value.first(), value.last()) else { return "00".to_owned() };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [char::from(first), char::from(last)].iter().collect();
    }
    let digits = format!("{first:02x}{last:02x}");
    digits.chars().take(1).chain(digits.chars().skip(3)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lists of the specification's example, in the order in which they were sent.
    const CIPHERS: [u16; 15] = [
        0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x009d, 0x002f,
        0x0035,
    ];
    const EXTENSIONS: [u16; 16] = [
        0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012, 0x002b, 0xff01, 0x000b,
        0x000a, 0x0015,
    ];
    const SIGNATURES: [u16; 8] = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601];

    fn with_length(width: usize, bytes: &[u8]) -> Vec<u8> {
        let mut out = (bytes.len() as u32).to_be_bytes()[4 - width..].to_vec();
        out.extend(bytes);
        out
    }

    fn pairs(values: &[u16]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_be_bytes()).collect()
    }

    fn record(ciphers: &[u16], extensions: &[u16], signatures: &[u16], alpn: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend(with_length(1, &[9; 32]));
        body.extend(with_length(2, &pairs(ciphers)));
        body.extend([1, 0]);
        let mut block = Vec::new();
        for kind in extensions {
            let value = match *kind {
                SUPPORTED_VERSIONS => with_length(1, &pairs(&[0x2a2a, 0x0304, 0x0303])),
                SIGNATURE_ALGORITHMS => with_length(2, &pairs(signatures)),
                ALPN => with_length(2, &with_length(1, alpn)),
                _ => vec![1; 3],
            };
            block.extend(kind.to_be_bytes());
            block.extend(with_length(2, &value));
        }
        if !extensions.is_empty() {
            body.extend(with_length(2, &block));
        }
        let mut message = vec![1];
        message.extend(with_length(3, &body));
        let mut record = vec![22, 3, 1];
        record.extend(with_length(2, &message));
        record
    }

    fn ja4(payload: &[u8]) -> String {
        match of(payload) {
            Hello::Whole(found) => found.ja4,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_published_example_comes_out() {
        let mut greased = CIPHERS.to_vec();
        greased.insert(0, 0x5a5a);
        let mut extensions = EXTENSIONS.to_vec();
        extensions.insert(3, 0xbaba);
        let cases = [
            (record(&CIPHERS, &EXTENSIONS, &SIGNATURES, b"h2"), "t13d1516h2_8daaf6152771_e5627efa2ab1"),
            (record(&greased, &extensions, &SIGNATURES, b"h2"), "t13d1516h2_8daaf6152771_e5627efa2ab1"),
            (record(&CIPHERS, &EXTENSIONS, &[], b"http/1.1"), "t13d1516h1_8daaf6152771_6d807ffa2a79"),
            (record(&[], &[], &[], b""), "t12i000000_000000000000_000000000000"),
        ];
        for (payload, wanted) in cases {
            assert_eq!(ja4(&payload), wanted);
        }
    }

    #[test]
    fn the_published_abbreviations_of_alpn_come_out() {
        let cases: [(&[u8], &str); 11] = [
            (b"", "00"),
            (b"h", "hh"),
            (b"h2", "h2"),
            (&[0xab], "ab"),
            (&[0x20], "20"),
            (&[0xab, 0xcd], "ad"),
            (&[0x20, 0x61], "21"),
            (&[0x30, 0xab], "3b"),
            (&[0x61, 0x20], "60"),
            (&[0x30, 0x31, 0xab, 0xcd], "3d"),
            (&[0x30, 0xab, 0xcd, 0x31], "01"),
        ];
        for (value, wanted) in cases {
            assert_eq!(alpn(value), wanted, "{value:02x?}");
        }
    }

    #[test]
    fn what_is_cut_gives_no_fingerprint() {
        let whole = record(&CIPHERS, &EXTENSIONS, &SIGNATURES, b"h2");
        for length in 0..whole.len() {
            match of(&whole[..length]) {
                Hello::None => assert!(length < 6),
                Hello::Cut { have, need } => assert_eq!((have, need), (length, whole.len())),
                other => panic!("{length}: {other:?}"),
            }
        }
        // The message goes on in a second record.
        let mut split = whole.clone();
        split[4] -= 9;
        assert!(matches!(of(&split), Hello::Cut { .. }));
        let mut broken = whole;
        broken[RECORD + MESSAGE + 34] = 255;
        assert_eq!(of(&broken), Hello::Broken);
        assert_eq!(of(b"GET / HTTP/1.1\r\n"), Hello::None);
    }
}
