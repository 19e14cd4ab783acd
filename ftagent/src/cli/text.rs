//! Tables, numbers and times for terminals.

use std::time::Duration;

use crate::alert::words::rfc3339;
pub use crate::alert::words::{count, harmless, percent, rate, several, short, span, utc};

/// Lays rows out in columns: the first is left-aligned, the others right-aligned.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    aligned(header, rows, &[0])
}

/// As [`table`]; the columns of `left` are left-aligned.
pub fn aligned(header: &[&str], rows: &[Vec<String>], left: &[usize]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            let (before, after) = if left.contains(&column) { ("", pad.as_str()) } else { (pad.as_str(), "") };
            text.push_str("  ");
            text.push_str(before);
            text.push_str(cell);
            text.push_str(after);
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut header.iter().copied());
    rows.iter().for_each(|row| text.push_str(&line(&mut row.iter().map(String::as_str))));
    text
}

/// Joins parts with `, ` and breaks lines at `width`; the second line and those after it begin
/// with `indent` spaces, where the first one is taken to begin too.
pub fn wrapped(parts: &[String], indent: usize, width: usize) -> String {
    let (mut text, mut column) = (String::new(), indent);
    for (i, part) in parts.iter().enumerate() {
        let comma = if i + 1 < parts.len() { "," } else { "" };
        let length = part.chars().count() + comma.len();
        if i > 0 && column + 1 + length > width {
            text.push_str(&format!("\n{}", " ".repeat(indent)));
            column = indent;
        } else if i > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(part);
        text.push_str(comma);
        column += length;
    }
    text
}

/// Writes a number with a decimal prefix: `1.23 M`.
pub fn si(value: f64) -> String {
    const PREFIXES: [(f64, &str); 4] = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
    match PREFIXES.iter().find(|(scale, _)| value >= *scale) {
        Some((scale, prefix)) => format!("{:.2}{prefix}", value / scale),
        None => format!("{value:.0} "),
    }
}

/// Writes seconds as people say them: `2h 5m`.
pub fn duration(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// Writes how long ago something was: `12 s ago`.
pub fn ago(now_ms: i64, at_ms: i64) -> String {
    match now_ms.saturating_sub(at_ms) {
        ..1000 => "just now".to_owned(),
        ms @ 1000..60_000 => format!("{} s ago", ms / 1000),
        ms @ 60_000..7_200_000 => format!("{} min ago", ms / 60_000),
        ms @ 7_200_000..172_800_000 => format!("{} h ago", ms / 3_600_000),
        ms => format!("{} days ago", ms / 86_400_000),
    }
}

/// Writes the time of the day, UTC, with its milliseconds: `12:00:00.123`.
pub fn clock(ms: i64) -> String {
    rfc3339(ms).get(11..23).unwrap_or_default().to_owned()
}

/// Writes a length in bytes: `512 B`, `1.23 MB`.
pub fn size(bytes: u64) -> String {
    format!("{}B", short(bytes as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Metric;

    #[test]
    fn numbers_read_well() {
        assert_eq!(si(0.0), "0 ");
        assert_eq!(si(999.0), "999 ");
        assert_eq!(si(1_234_567.0), "1.23 M");
        assert_eq!(count(1_234_567), "1 234 567");
        assert_eq!(count(12), "12");
        assert_eq!(several(1, "source") + ", " + &several(1000, "source"), "1 source, 1 000 sources");
        assert_eq!(harmless("a\x1b[2J\u{9b}b\n"), "a.[2J.b\n");
    }

    #[test]
    fn rates_and_shares_read_well() {
        let rates = [
            (0.0, "0 pps"),
            (0.34, "0.3 pps"),
            (9.96, "10.0 pps"),
            (42.0, "42 pps"),
            (310.4, "310 pps"),
            (999.7, "1.00 kpps"),
            (1_234.0, "1.23 kpps"),
            (48_210.0, "48.2 kpps"),
            (999_700.0, "1.00 Mpps"),
            (f64::NAN, "? pps"),
        ];
        for (value, wanted) in rates {
            assert_eq!(rate(value, Metric::Pps), wanted, "{value}");
        }
        assert_eq!(rate(1.206e9, Metric::Bps), "1.21 Gbit/s");
        let shares = [
            (0.0, "0 %"),
            (0.0004, "< 0.1 %"),
            (0.004, "0.4 %"),
            (0.024, "2 %"),
            (0.97, "97 %"),
            (0.994, "99.4 %"),
            (0.9997, "> 99.9 %"),
            (1.0, "100 %"),
        ];
        for (share, wanted) in shares {
            assert_eq!(percent(share), wanted, "{share}");
        }
    }

    #[test]
    fn times_read_well() {
        const DAY: i64 = 86_400_000;
        let spans = [
            (-5, "0.0 s"),
            (340, "0.3 s"),
            (12_900, "12 s"),
            (252_000, "4 min 12 s"),
            (7_200_000, "2 h"),
            (7_500_000, "2 h 5 min"),
            (3 * DAY + 4 * 3_600_000, "3 d 4 h"),
        ];
        for (ms, wanted) in spans {
            assert_eq!(span(ms), wanted, "{ms}");
        }
        let agos = [
            (-20, "just now"),
            (400, "just now"),
            (12_900, "12 s ago"),
            (119_000, "1 min ago"),
            (7_199_000, "119 min ago"),
            (DAY, "24 h ago"),
            (5 * DAY, "5 days ago"),
        ];
        for (ms, wanted) in agos {
            assert_eq!(ago(1_000_000 + ms, 1_000_000), wanted, "{ms}");
        }
        assert_eq!(utc(1_785_585_600_123), "2026-08-01 12:00:00 UTC");
        assert_eq!(clock(1_785_585_600_123), "12:00:00.123");
        // A clock that is wrong must not end the command.
        assert_eq!(utc(i64::MIN), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(i64::MAX), "9999-12-31 23:59:59 UTC");
    }

    #[test]
    fn lists_break_between_their_parts() {
        let parts = ["198.18.0.0/16 60 %", "203.0.113.7 30 %", "10 more"].map(str::to_owned);
        assert_eq!(wrapped(&parts, 4, 80), "198.18.0.0/16 60 %, 203.0.113.7 30 %, 10 more");
        assert_eq!(wrapped(&parts, 4, 36), "198.18.0.0/16 60 %,\n    203.0.113.7 30 %, 10 more");
        assert_eq!(wrapped(&[], 4, 36), "");
    }
}
