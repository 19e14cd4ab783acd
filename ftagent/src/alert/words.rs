//! Numbers and times in the words of people: for messages and for terminals.

use std::time::{Duration, SystemTime};

use crate::decide::Metric;

/// The last millisecond that can be written with a year of four digits.
const LAST_MS: i64 = 253_402_300_799_999;

/// Writes a count of things: `1 destination`, `2 destinations`.
pub fn several(value: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(value), if value == 1 { "" } else { "s" })
}

/// Replaces control characters other than line ends: what senders wrote may be quoted in a text,
/// and must not command the terminal that shows it.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '.' } else { c }).collect()
}

/// Writes a count with thin groups of three digits: `1 234 567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Writes milliseconds as people say them: `0.3 s`, `12 s`, `4 min 12 s`, `2 h 5 min`, `3 d 4 h`.
pub fn span(ms: i64) -> String {
    let ms = ms.max(0);
    let s = ms / 1000;
    let two = |large: i64, unit: &str, small: i64, rest: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {rest}"),
    };
    match s {
        0..10 => format!("{}.{} s", s, ms % 1000 / 100),
        10..60 => format!("{s} s"),
        60..3600 => two(s / 60, "min", s % 60, "s"),
        3600..86_400 => two(s / 3600, "h", s % 3600 / 60, "min"),
        _ => two(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

/// Writes a time as RFC 3339 has it, with milliseconds: `2026-08-01T12:00:00.000Z`.
pub fn rfc3339(ms: i64) -> String {
    // Clocks may say anything, and the formatter only takes years from 1970 to 9999.
    let ms = u64::try_from(ms.clamp(0, LAST_MS)).unwrap_or_default();
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// Writes a time: `2026-08-01 12:00:00 UTC`.
pub fn utc(ms: i64) -> String {
    let text = rfc3339(ms);
    format!("{} {} UTC", text.get(..10).unwrap_or_default(), text.get(11..19).unwrap_or_default())
}

/// Writes a rate with its unit: `48.2 kpps`, `1.21 Gbit/s`. Structure is told in packets.
pub fn rate(value: f64, metric: Metric) -> String {
    let unit = if metric == Metric::Bps { "bit/s" } else { "pps" };
    format!("{}{unit}", short(value))
}

/// Writes a number with three digits or so and a decimal prefix: `310 `, `48.2 k`, `4.2 `.
pub fn short(value: f64) -> String {
    let (scaled, prefix) = match value {
        _ if !value.is_finite() => return "? ".to_owned(),
        999.5e9.. => (value / 1e12, "T"),
        999.5e6.. => (value / 1e9, "G"),
        999.5e3.. => (value / 1e6, "M"),
        999.5.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    match scaled {
        _ if value == 0.0 => "0 ".to_owned(),
        99.95.. => format!("{scaled:.0} {prefix}"),
        9.995.. => format!("{scaled:.*} {prefix}", usize::from(!prefix.is_empty())),
        _ => format!("{scaled:.*} {prefix}", if prefix.is_empty() { 1 } else { 2 }),
    }
}

/// Writes a share, 0 to 1, as a percentage. Little is not nothing, and nearly all is not all.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        _ if percent <= 0.0 || percent >= 100.0 => format!("{percent:.0} %"),
        ..0.05 => "< 0.1 %".to_owned(),
        99.95.. => "> 99.9 %".to_owned(),
        ..1.0 | 99.0.. => format!("{percent:.1} %"),
        _ => format!("{percent:.0} %"),
    }
}
