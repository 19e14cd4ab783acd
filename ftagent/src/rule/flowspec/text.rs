//! The text form of flow specifications, for people: `flow4 dst 203.0.113.5/32 proto =17 sport =123 len >=400&<=1500`.

use std::fmt;

use super::{BitField, Bitmask, Component, Field, FlowSpec, Numeric, Side};
use crate::rule::Family;

impl fmt::Display for FlowSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.family == Family::Ip4 { "flow4" } else { "flow6" })?;
        self.components.iter().try_for_each(|component| write!(f, " {component}"))
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix { side, net, offset } => {
                write!(f, "{} {net}", if *side == Side::Destination { "dst" } else { "src" })?;
                if *offset == 0 { Ok(()) } else { write!(f, " offset {offset}") }
            }
            Self::Numbers(field, tests) => {
                write!(f, "{} ", field.word())?;
                joined(f, tests, |test| test.and)
            }
            Self::Bits(field, tests) => {
                write!(f, "{} ", if *field == BitField::TcpFlags { "flags" } else { "frag" })?;
                joined(f, tests, |test| test.and)
            }
        }
    }
}

fn joined<T: fmt::Display>(f: &mut fmt::Formatter<'_>, tests: &[T], and: impl Fn(&T) -> bool) -> fmt::Result {
    for (i, test) in tests.iter().enumerate() {
        let before = match () {
            () if i == 0 => "",
            () if and(test) => "&",
            () => ",",
        };
        write!(f, "{before}{test}")?;
    }
    Ok(())
}

impl Field {
    /// Returns its word in the text form.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Protocol => "proto",
            Self::Port => "port",
            Self::DestinationPort => "dport",
            Self::SourcePort => "sport",
            Self::IcmpType => "icmp-type",
            Self::IcmpCode => "icmp-code",
            Self::Length => "len",
            Self::Dscp => "dscp",
            Self::FlowLabel => "label",
        }
    }
}

impl Numeric {
    /// Returns the operator as routers write it; `true` and `false` need no value.
    pub const fn operator(&self) -> &'static str {
        match (self.less, self.more, self.equal) {
            (false, false, false) => "false",
            (false, false, true) => "=",
            (false, true, false) => ">",
            (false, true, true) => ">=",
            (true, false, false) => "<",
            (true, false, true) => "<=",
            (true, true, false) => "!=",
            (true, true, true) => "true",
        }
    }
}

impl fmt::Display for Numeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operator() {
            word @ ("true" | "false") => f.write_str(word),
            operator => write!(f, "{operator}{}", self.value),
        }
    }
}

impl fmt::Display for Bitmask {
    /// `0x12`: any of them; `=0x12`: all of them; with `!` before it, not so.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (not, all) = (if self.not { "!" } else { "" }, if self.all { "=" } else { "" });
        write!(f, "{not}{all}{:#04x}", self.value)
    }
}
