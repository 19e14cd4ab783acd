//! The form of a line: what is hashed, and how a line is taken apart again, byte by byte.
//!
//! A line is one JSON object and a newline. Its last member is `hash`, the one before `prev`. The hash
//! is SHA-256 over the bytes of the line without that last member and without the newline, that is,
//! over `{…,"prev":"…"}`; `prev` is the hash of the line before. So every byte is either hashed or
//! fixed, and nothing is ever parsed and written anew in order to be compared.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// The version of the form.
pub(super) const VERSION: u8 = 1;
/// Bytes of a line at most.
pub(super) const MOST_LINE: usize = 256 << 10;

const HEX: usize = 64;
const PREV: &[u8] = br#","prev":""#;
const HASH: &[u8] = br#"","hash":""#;
const END: &[u8] = br#""}"#;
const BEGIN: &[u8] = br#"{"v":1,"seq":"#;
/// Bytes from `,"prev"` to the end, without the newline.
const TAIL: usize = PREV.len() + HEX + HASH.len() + HEX + END.len();
/// Bytes from `,"hash"` to the end, without the newline.
const AFTER: usize = HASH.len() - 1 + HEX + END.len();

/// A SHA-256 in lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hex([u8; HEX]);

impl Hex {
    /// What stands for the hash of a line that does not exist.
    pub(super) const ZERO: Self = Self([b'0'; HEX]);

    /// Returns the hash of some parts, one after the other.
    pub(super) fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        parts.iter().for_each(|part| hasher.update(part));
        let digest: [u8; 32] = hasher.finalize().into();
        let mut text = [0; HEX];
        for (pair, byte) in text.chunks_exact_mut(2).zip(digest) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        Self(text)
    }

    /// Reads 64 lower-case digits.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let digits: [u8; HEX] = text.try_into().ok()?;
        digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(digits))
    }

    pub(super) fn as_str(&self) -> &str {
        // Digits are ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

const fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns bytes in lower-case digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [char::from(digit(byte >> 4)), char::from(digit(byte & 15))]).collect()
}

/// Reads lower-case digits, as many as there is room for.
pub(super) fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = (value(*high)? << 4) | value(*low)?;
    }
    Some(bytes)
}

/// Ends the line that begins at `from` and stands there up to `"prev":"…"}`; returns its hash.
pub(super) fn seal(text: &mut Vec<u8>, from: usize) -> Hex {
    let hash = Hex::of(&[text.get(from..).unwrap_or_default()]);
    text.pop();
    text.extend_from_slice(br#","hash":""#);
    text.extend_from_slice(hash.as_str().as_bytes());
    text.extend_from_slice(b"\"}\n");
    hash
}

/// A line that is what its hash says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub(super) seq: u64,
    pub(super) prev: Hex,
    pub(super) hash: Hex,
    /// What stands between the sequence number and `prev`.
    pub(super) members: &'a [u8],
}

impl<'a> Line<'a> {
    /// Takes a line apart, given without its newline.
    ///
    /// # Errors
    /// The sequence number, where one can be read, and what is wrong.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, (Option<u64>, String)> {
        let (seq, rest) = begin(bytes).ok_or((None, "it does not begin as a line of the log does".to_owned()))?;
        let wrong = |what: &str| (Some(seq), what.to_owned());
        let (members, tail) = rest
            .len()
            .checked_sub(TAIL)
            .and_then(|at| rest.split_at_checked(at))
            .ok_or_else(|| wrong("it is too short to be a line of the log"))?;
        let (prev, hash) = ends(tail).ok_or_else(|| wrong("it does not end with `prev` and `hash` as a line does"))?;
        let hashed = bytes.len().checked_sub(AFTER).and_then(|at| bytes.get(..at)).unwrap_or_default();
        let found = Hex::of(&[hashed, b"}"]);
        if found != hash {
            return Err((Some(seq), format!("its bytes are not what its hash says ({found} is theirs)")));
        }
        Ok(Self { seq, prev, hash, members })
    }
}

/// Reads the sequence number; returns what follows its comma.
fn begin(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let rest = bytes.strip_prefix(BEGIN)?;
    let comma = rest.iter().take(21).position(|byte| *byte == b',')?;
    let (digits, rest) = rest.split_at_checked(comma)?;
    let plain = digits.iter().all(u8::is_ascii_digit) && digits.first().is_some_and(|first| *first != b'0');
    let seq = std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()?;
    Some((seq, rest.get(1..)?))
}

fn ends(tail: &[u8]) -> Option<(Hex, Hex)> {
    let (prev, rest) = tail.strip_prefix(PREV)?.split_at_checked(HEX)?;
    let (hash, rest) = rest.strip_prefix(HASH)?.split_at_checked(HEX)?;
    if rest != END {
        return None;
    }
    Some((Hex::read(prev)?, Hex::read(hash)?))
}
