//! The text form of actions, and of matches with an action: `udp sport 123 then rate-limit 300 pps`.

use std::{fmt, str::FromStr};

use super::{
    Action, FlowMatch, Rate,
    words::{ParseRuleError, nearest, wrong},
};

/// The highest rate of a limit, packets or bits a second: a terabit. More is no limit on any link.
pub const MOST_RATE: u64 = 1_000_000_000_000;

/// What people write behind a number, what is counted, and how many of it are meant.
type Unit = (&'static str, fn(u64) -> Rate, u64);

/// Units of rates.
const UNITS: [Unit; 11] = [
    ("pps", Rate::Pps, 1),
    ("kpps", Rate::Pps, 1_000),
    ("mpps", Rate::Pps, 1_000_000),
    ("bps", Rate::Bps, 1),
    ("kbps", Rate::Bps, 1_000),
    ("mbps", Rate::Bps, 1_000_000),
    ("gbps", Rate::Bps, 1_000_000_000),
    ("bit/s", Rate::Bps, 1),
    ("kbit/s", Rate::Bps, 1_000),
    ("mbit/s", Rate::Bps, 1_000_000),
    ("gbit/s", Rate::Bps, 1_000_000_000),
];

/// The words that begin an action.
const ACTIONS: [&str; 5] = ["drop", "rate-limit", "challenge", "count", "capture"];

/// Reads `MATCH then ACTION`.
///
/// # Errors
/// The word that is wrong, and what to write instead.
pub fn parse(text: &str) -> Result<(FlowMatch, Action), ParseRuleError> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let Some(then) = words.iter().position(|word| word.eq_ignore_ascii_case("then")) else {
        let last = words.last().copied().unwrap_or_default();
        return Err(wrong(last, "is where the rule ends, and it does not say what to do: write `… then drop`"));
    };
    let (matches, action) = (words.get(..then).unwrap_or_default(), words.get(then + 1..).unwrap_or_default());
    if matches.is_empty() {
        return Err(wrong("then", "comes first: write what is matched before it, as in `udp sport 123 then drop`"));
    }
    Ok((matches.join(" ").parse()?, action.join(" ").parse()?))
}

impl FromStr for Action {
    type Err = ParseRuleError;

    /// `drop`, `rate-limit 300 pps`, `rate-limit 10 Mbps`, `challenge`, `count` or `capture`.
    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let text = text.to_lowercase();
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["drop"] => Ok(Self::Drop),
            ["challenge"] => Ok(Self::Challenge),
            ["count"] => Ok(Self::Count),
            ["capture"] => Ok(Self::Capture),
            ["rate-limit", rate @ ..] => self::rate(rate).map(Self::RateLimit),
            [] => Err(wrong("then", "is not followed by an action: write drop, rate-limit, challenge or count")),
            [word @ ("drop" | "challenge" | "count" | "capture"), more, ..] => {
                Err(wrong(more, format!("is too much: nothing stands behind `{word}`")))
            }
            ["allow" | "accept" | "pass" | "permit", ..] => Err(wrong(
                words.first().copied().unwrap_or_default(),
                "is no action of a rule: `ftagent allow ADDRESS` lets everything from an address pass",
            )),
            [word @ ("limit" | "ratelimit" | "police"), ..] => Err(wrong(word, "is written `rate-limit 300 pps` here")),
            [word, ..] => Err(match nearest(word, ACTIONS) {
                Some(nearest) => wrong(word, format!("is no action: did you mean `{nearest}`?")),
                None => wrong(word, format!("is no action; they are {}", ACTIONS.join(", "))),
            }),
        }
    }
}

fn rate(words: &[&str]) -> Result<Rate, ParseRuleError> {
    const FORM: &str = "write `rate-limit 300 pps` or `rate-limit 10 Mbps`";
    let joined = words.concat();
    let digits = joined.find(|c: char| !c.is_ascii_digit()).unwrap_or(joined.len());
    let (number, unit) = joined.split_at(digits);
    let shown = if joined.is_empty() { "rate-limit" } else { joined.as_str() };
    if number.is_empty() {
        return Err(wrong(shown, format!("names no rate: {FORM}")));
    }
    let Some((_, of, factor)) = UNITS.iter().find(|(name, ..)| *name == unit) else {
        return Err(wrong(
            shown,
            format!("has no unit that is known (pps, kpps, Mpps, bps, kbps, Mbps, Gbps): {FORM}"),
        ));
    };
    let value = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor));
    match value {
        Some(0) => Err(wrong(shown, "lets nothing pass: write `drop`")),
        Some(value) if value <= MOST_RATE => Ok(of(value)),
        _ => Err(wrong(shown, "is more than any link carries: the highest rate is 1 000 000 000 000 a second")),
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str("drop"),
            Self::RateLimit(Rate::Pps(rate)) => write!(f, "rate-limit {rate} pps"),
            Self::RateLimit(Rate::Bps(rate)) => write!(f, "rate-limit {rate} bps"),
            Self::Challenge => f.write_str("challenge"),
            Self::Count => f.write_str("count"),
            Self::Capture => f.write_str("capture"),
        }
    }
}
