//! Plots of columns for terminals.

use super::text::harmless;

/// Rows of a plot.
const HEIGHT: usize = 8;
const HALF: usize = HEIGHT / 2;
/// Columns that the scale takes, its line included.
pub const SCALE: usize = 11;
/// A mark that lies higher than this many times the highest value is named, not drawn: the values
/// would lie flat on the ground.
const REACH: f64 = 3.0;

/// What a terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Characters in a line.
    pub width: usize,
    /// Whether it shows more than ASCII.
    pub unicode: bool,
}

impl Screen {
    /// Returns what standard output can show. What is piped gets ASCII and 100 columns.
    pub fn of_stdout() -> Self {
        let stdout = std::io::stdout();
        let size = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| std::env::var(name).ok());
        let locale = locale.into_iter().find(|value| !value.is_empty()).unwrap_or_default().to_uppercase();
        let unicode = size.is_some() && (locale.contains("UTF-8") || locale.contains("UTF8"));
        Self { width: size.filter(|width| *width > 0).unwrap_or(100).clamp(40, 200), unicode }
    }
}

impl Screen {
    /// Returns a text as it can be shown. What the core writes holds a few signs that only some
    /// terminals have; what senders wrote may hold anything.
    pub fn plain(self, text: &str) -> String {
        let text = harmless(text);
        if self.unicode {
            return text;
        }
        let text = text.replace('±', "+-").replace(['×', '·'], "x").replace('…', "...");
        text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
    }
}

/// A level that is drawn across a plot.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Where it lies; what is not above 0 is not known and neither drawn nor named.
    pub value: f64,
}

/// What is plotted.
#[derive(Clone, Copy, Debug)]
pub struct Plot<'a> {
    /// Oldest first; what is not finite is a gap.
    pub values: &'a [f64],
    /// Levels to compare with, lowest first.
    pub marks: &'a [Mark<'a>],
    /// What stands below the first and the last column.
    pub ends: [&'a str; 2],
    /// What one value stands for, as in `hour` and `hours`.
    pub unit: [&'a str; 2],
}

/// The characters of a plot.
struct Glyphs {
    /// A cell that is filled by so many parts, least first.
    parts: &'static [char],
    lines: [char; 2],
    scale: char,
    corner: char,
    ground: char,
}

const BLOCKS: Glyphs = Glyphs {
    parts: &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
    lines: ['─', '═'],
    scale: '│',
    corner: '└',
    ground: '─',
};
const ASCII: Glyphs = Glyphs { parts: &['.', '#'], lines: ['-', '='], scale: '|', corner: '+', ground: '-' };

/// Draws columns with a scale, lines for the marks, and what they mean.
pub fn draw(plot: &Plot<'_>, screen: Screen, label: impl Fn(f64) -> String) -> String {
    let room = screen.width.saturating_sub(SCALE).max(10);
    let per = plot.values.len().div_ceil(room).max(1);
    let columns: Vec<f64> = plot.values.chunks(per).map(highest).collect();
    let glyphs = if screen.unicode { &BLOCKS } else { &ASCII };
    let peak = highest(&columns).max(0.0);
    let drawn = |mark: &Mark<'_>| mark.value > 0.0 && (mark.value <= REACH * peak || peak <= 0.0);
    let marked = plot.marks.iter().filter(|mark| drawn(mark)).map(|mark| mark.value);
    let top = marked.fold(peak, f64::max).max(f64::MIN_POSITIVE);
    // A level of exactly `top` belongs to the highest row, not above it.
    let row_of = |value: f64| ((value / top * HEIGHT as f64).ceil() as usize).clamp(1, HEIGHT);
    let mut text = String::new();
    for row in (1..=HEIGHT).rev() {
        // A label stands where the row it is in ends.
        let scale = match row {
            HEIGHT => label(top),
            HALF => label(top / 2.0),
            _ => String::new(),
        };
        let line = plot.marks.iter().zip(glyphs.lines).rev().find(|(mark, _)| drawn(mark) && row_of(mark.value) == row);
        let empty = line.map_or(' ', |(_, glyph)| glyph);
        let cells: String = columns.iter().map(|value| cell(*value / top, row, glyphs, empty)).collect();
        text.push_str(format!("{scale:>9} {}{}", glyphs.scale, cells).trim_end());
        text.push('\n');
    }
    let ground: String = std::iter::repeat_n(glyphs.ground, columns.len()).collect();
    text.push_str(&format!("{:>9} {}{ground}\n", label(0.0), glyphs.corner));
    text.push_str(&ends(plot.ends, columns.len()));
    text.push_str(&legend(plot, per, glyphs, screen.width, drawn, label));
    text
}

fn highest(values: &[f64]) -> f64 {
    values.iter().copied().filter(|value| value.is_finite()).fold(f64::NEG_INFINITY, f64::max)
}

/// Returns the character of a column at a row, 1 at the ground. `level` is 0 to 1 of the height.
fn cell(level: f64, row: usize, glyphs: &Glyphs, empty: char) -> char {
    let filled = level * HEIGHT as f64 - (row - 1) as f64;
    let parts = glyphs.parts.len();
    let part = (filled * parts as f64).round();
    // Little is not nothing: on the ground, whatever is above 0 shows.
    let part = if row == 1 && level > 0.0 { part.max(1.0) } else { part };
    match part {
        _ if part < 1.0 || part.is_nan() => empty,
        _ => glyphs.parts.get((part as usize).min(parts) - 1).copied().unwrap_or(empty),
    }
}

fn ends([first, last]: [&str; 2], columns: usize) -> String {
    let gap = columns.saturating_sub(first.chars().count() + last.chars().count()).max(1);
    format!("{}{first}{}{last}\n", " ".repeat(SCALE), " ".repeat(gap))
}

fn legend(
    plot: &Plot<'_>,
    per: usize,
    glyphs: &Glyphs,
    width: usize,
    drawn: impl Fn(&Mark<'_>) -> bool,
    label: impl Fn(f64) -> String,
) -> String {
    let known = plot.marks.iter().zip(glyphs.lines).filter(|(mark, _)| mark.value > 0.0);
    let mut parts: Vec<String> = known
        .map(|(mark, glyph)| match drawn(mark) {
            true => format!("{glyph}{glyph} {} {}", mark.name, label(mark.value)),
            false => format!("{} {} (above the plot)", mark.name, label(mark.value)),
        })
        .collect();
    let [one, many] = plot.unit;
    parts.push(match per {
        1 => format!("one column: one {one}"),
        _ => format!("one column: the highest of {per} {many}"),
    });
    let indent = " ".repeat(SCALE);
    let line = format!("{indent}{}\n", parts.join("   "));
    // A line that does not fit would be broken anywhere.
    if line.chars().count() <= width + 1 {
        line
    } else {
        parts.iter().map(|part| format!("{indent}{part}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::text::short;

    fn plotted(values: &[f64], marks: &[Mark<'_>], width: usize, unicode: bool) -> String {
        let plot = Plot { values, marks, ends: ["-8 min", "now"], unit: ["minute", "minutes"] };
        draw(&plot, Screen { width, unicode }, |value| short(value).trim_end().to_owned())
    }

    const RAMP: [f64; 12] = [0.0, 1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, f64::NAN, 80.0, 4.0];

    #[test]
    fn columns_lines_and_their_meaning() {
        let marks = [Mark { name: "threshold", value: 60.0 }, Mark { name: "ceiling", value: 120.0 }];
        let blocks = [
            "      120 │════════════",
            "          │",
            "          │          ▃",
            "          │        ▅ █",
            "       60 │──────▃██─█─",
            "          │     ▅███ █",
            "          │   ▃█████ █",
            "          │ ▁▅██████ █▂",
            "        0 └────────────",
            "           -8 min   now",
            "           ── threshold 60   ══ ceiling 120   one column: one minute",
            "",
        ];
        assert_eq!(plotted(&RAMP, &marks, 80, true), blocks.join("\n"));
        let ascii = [
            "      120 |============",
            "          |",
            "          |          .",
            "          |        . #",
            "       60 |------.##-#-",
            "          |     .### #",
            "          |   .##### #",
            "          | ..###### #.",
            "        0 +------------",
            "           -8 min   now",
            "           -- threshold 60   == ceiling 120   one column: one minute",
            "",
        ];
        assert_eq!(plotted(&RAMP, &marks, 80, false), ascii.join("\n"));
    }

    #[test]
    fn texts_fit_the_screen() {
        let screen = |unicode| Screen { width: 80, unicode };
        assert_eq!(screen(true).plain("310±40 ×2 é\x1b[2J"), "310±40 ×2 é.[2J");
        assert_eq!(screen(false).plain("310±40 ×2 é\x1b[2J"), "310+-40 x2 ?.[2J");
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let marks = [Mark { name: "threshold", value: 0.0 }, Mark { name: "ceiling", value: 1000.0 }];
        let week: Vec<f64> = (0..168).map(f64::from).collect();
        let text = plotted(&week, &marks, 60, false);
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        assert!(
            text.contains("ceiling 1.00 k (above the plot)\n           one column: the highest of 4 minutes"),
            "{text}"
        );
        assert!(text.starts_with("      167 |") && !text.contains("threshold"), "{text}");
        // Nothing at all is a plot too.
        let text = plotted(&[0.0, f64::NAN], &marks, 60, false);
        assert!(text.contains("== ceiling 1.00 k"), "{text}");
    }
}
