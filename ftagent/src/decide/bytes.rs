//! Byte arrays in serde: as one string of bytes, without the zeros at its end.

use std::fmt;

use serde::{Deserializer, Serializer, de};

/// Writes it.
pub fn serialize<S: Serializer, const N: usize>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    serializer.serialize_bytes(bytes.get(..used).unwrap_or_default())
}

/// Reads it.
pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
    deserializer.deserialize_bytes(Bytes)
}

struct Bytes<const N: usize>;

impl<const N: usize> de::Visitor<'_> for Bytes<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {N} bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<[u8; N], E> {
        let mut array = [0; N];
        array.get_mut(..bytes.len()).ok_or_else(|| E::invalid_length(bytes.len(), &self))?.copy_from_slice(bytes);
        Ok(array)
    }
}
