//! Just enough of Rust's lexical grammar to tell code from comments and literals.
//!
//! Follows "Tokens" and "Comments" in the Rust reference. What it does not know (C string literals, say) is treated as
//! the string it looks like.

/// Returns the source with comments and the contents of string and character literals replaced by spaces. Lines keep
/// their numbers.
pub(super) fn blanked(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let length = blank_length(&chars, at);
        if length == 0 {
            out.push(c);
            at += 1;
            continue;
        }
        let blanked = chars.iter().skip(at).take(length);
        out.extend(blanked.map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at += length;
    }
    out
}

/// Returns how many characters from `at` are comment or literal; 0 for code.
fn blank_length(chars: &[char], at: usize) -> usize {
    let rest = chars.get(at..).unwrap_or_default();
    let in_word = at > 0 && chars.get(at - 1).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    match rest {
        ['/', '/', ..] => rest.iter().take_while(|c| **c != '\n').count(),
        ['/', '*', ..] => block_comment(rest),
        ['r', '"' | '#', ..] if !in_word || matches!(chars.get(at - 1), Some('b')) => raw_string(rest),
        ['"', ..] => quoted(rest, '"'),
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => quoted(rest, '\''),
        _ => 0,
    }
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(pair) = rest.get(at..at + 2) {
        match pair {
            ['/', '*'] => depth += 1,
            ['*', '/'] => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// `r"…"` or `r#"…"#` with any number of hashes; a raw identifier (`r#type`) is code.
fn raw_string(rest: &[char]) -> usize {
    let hashes = rest.iter().skip(1).take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let body = 2 + hashes;
    let closing: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let end = rest.get(body..).unwrap_or_default().windows(closing.len()).position(|window| window == closing);
    end.map_or(rest.len(), |end| body + end + closing.len())
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.iter().enumerate().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if *c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Returns the position of each occurrence of `word` that is not part of a longer word.
pub(super) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = text.get(..*at).and_then(|text| text.chars().next_back());
        let after = text.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// Returns the line number, from 1, of a byte position.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text.get(..at).map_or(0, |text| text.matches('\n').count()) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_is_kept() {
        let cases = [
            ("a // unsafe\nb", "a          \nb"),
            ("a /* x /* y */ z */ b", "a                   b"),
            (r#"f("unsafe \" x") + g"#, "f(             ) + g"),
            ("r#\"a \" b\"# c", "           c"),
            ("br\"x\" y", "b     y"),
            ("r#type", "r#type"),
            ("'\"' + '\\'' + 'x'", "    +      +    "),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("\"never closed", "             "),
        ];
        for (source, expected) in cases {
            assert_eq!(blanked(source), expected, "{source}");
        }
    }

    #[test]
    fn a_word_inside_a_longer_word_does_not_count() {
        assert_eq!(words("unsafe unsafe_code xunsafe (unsafe)", "unsafe").collect::<Vec<_>>(), [0, 28]);
    }
}
