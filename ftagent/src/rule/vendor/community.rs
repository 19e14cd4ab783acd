//! BGP communities.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// A community (RFC 1997).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Community(pub u32);

impl Community {
    /// NO_EXPORT (RFC 1997).
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// BLACKHOLE (RFC 7999).
    pub const BLACKHOLE: Self = Self(0xffff_029a);
    /// Those that have names, as ExaBGP writes them.
    const NAMES: [(&str, Self); 5] = [
        ("blackhole", Self::BLACKHOLE),
        ("no-export", Self::NO_EXPORT),
        ("no-advertise", Self(0xffff_ff02)),
        ("no-export-subconfed", Self(0xffff_ff03)),
        ("no-peer", Self(0xffff_ff04)),
    ];

    /// Returns both halves.
    pub const fn halves(self) -> [u32; 2] {
        [self.0 >> 16, self.0 & 0xffff]
    }
}

impl FromStr for Community {
    type Err = String;

    /// `65535:666`, or a name: `blackhole`, `no-export`, `no-advertise`, `no-export-subconfed`, `no-peer`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, known)) = Self::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            return Ok(*known);
        }
        let halves = text.split_once(':').and_then(|(high, low)| Some((number::<u16>(high)?, number::<u16>(low)?)));
        let (high, low) = halves.ok_or_else(|| format!("\"{text}\" is not a community"))?;
        Ok(Self(u32::from(high) << 16 | u32::from(low)))
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [high, low] = self.halves();
        write!(f, "{high}:{low}")
    }
}

/// A large community (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LargeCommunity {
    /// The AS that gives it its meaning.
    pub global: u32,
    /// The first number.
    pub first: u32,
    /// The second number.
    pub second: u32,
}

impl FromStr for LargeCommunity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Option<Vec<u32>> = text.split(':').map(number).collect();
        match parts.as_deref() {
            Some([global, first, second]) => Ok(Self { global: *global, first: *first, second: *second }),
            _ => Err(format!("\"{text}\" is not a large community")),
        }
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.first, self.second)
    }
}

/// A community of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyCommunity {
    /// RFC 1997.
    Plain(Community),
    /// RFC 8092.
    Large(LargeCommunity),
}

impl FromStr for AnyCommunity {
    type Err = String;

    /// As either kind is written.
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self::Plain).or_else(|_| text.parse().map(Self::Large)).map_err(|_| {
            format!(
                "`{text}` is no community: write 65535:666 (both up to 65535), or for a larger AS number a large one as \
                 4200000000:666:0"
            )
        })
    }
}

impl fmt::Display for AnyCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(community) => community.fmt(f),
            Self::Large(community) => community.fmt(f),
        }
    }
}

impl Serialize for AnyCommunity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}
