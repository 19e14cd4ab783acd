//! The tables of `docs/INDICATORS.md`, written from the code and the shipped files.

use std::fmt::Write as _;

use super::{field::FIELDS, library::Library, pattern::Kind};

/// Begins the part of the document that is written by the code.
const MARK: &str = "<!-- Below this line the document is written by the code. -->\n";

/// Returns the document with its tables as they ought to be: what stands above the mark is kept.
pub fn markdown(document: &str) -> String {
    let kept = document.split(MARK).next().unwrap_or_default();
    let mut text = format!("{kept}{MARK}\n## Fields\n\n| field | what it is |\n|---|---|\n");
    for (name, _, about) in FIELDS {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{name}` | {about} |");
    }
    let library = Library::shipped();
    let _ = writeln!(
        text,
        "\n## Shipped patterns\n\n{} patterns. Confidence is that of one packet.",
        library.patterns().len()
    );
    for kind in Kind::ALL {
        let _ = writeln!(
            text,
            "\n### `{}`\n\n| name | tool | what it is | confidence | source |\n|---|---|---|---|---|",
            kind.as_str()
        );
        for pattern in library.patterns().iter().filter(|pattern| pattern.kind == kind) {
            let cell = |text: &str| text.replace('|', "\\|");
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {:.2} | {} |",
                pattern.name,
                cell(&pattern.tool),
                cell(&pattern.about),
                pattern.confidence,
                cell(&pattern.source)
            );
        }
    }
    text
}
