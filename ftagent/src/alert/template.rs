//! Templates: text with `{placeholders}`. `{{` and `}}` are the braces themselves.

use std::collections::BTreeMap;

use super::Alert;

/// What can be put in, and what it is.
pub const PLACEHOLDERS: [(&str, &str); 24] = [
    ("title", "the first line as it is without a template"),
    ("text", "the lines behind it"),
    ("kind", "opened, escalated, changed, mitigated, collateral, closed, trouble, recovered, digest or test"),
    ("severity", "info, low, medium, high or critical"),
    ("node", "the machine"),
    ("incident", "the incident's id; empty where it is about the agent itself"),
    ("vector", "the vector"),
    ("vectors", "every vector, strongest first"),
    ("confidence", "how sure it is"),
    ("tool", "the tool that the packets look like; may be empty"),
    ("target", "where most of it goes; may be empty"),
    ("pps", "packets a second now"),
    ("bps", "bits a second now"),
    ("peak_pps", "packets a second at most"),
    ("peak_bps", "bits a second at most"),
    ("normal", "what is normal; may be empty"),
    ("threshold", "what is too much; may be empty"),
    ("done", "what is done about it"),
    ("predicted", "what the rules were expected to remove"),
    ("measured", "what they remove"),
    ("what", "what changed; may be empty"),
    ("opened", "when it opened, UTC"),
    ("duration", "how long it has lasted"),
    ("link", "where more is to be seen; may be empty"),
];

/// Checks a template.
///
/// # Errors
/// What is wrong with it, and what was probably meant.
pub fn check(template: &str) -> Result<(), (String, String)> {
    parts(template).map(drop)
}

/// Fills a template in. One that [`check`] refuses is left as it is.
pub fn render(template: &str, alert: &Alert) -> String {
    let Ok(parts) = parts(template) else { return template.to_owned() };
    let own = own(alert);
    let value = |part: &Part<'_>| match part {
        Part::Text(text) => (*text).to_owned(),
        Part::Name(name) => own.get(name).or_else(|| alert.facts.get(*name)).cloned().unwrap_or_default(),
    };
    parts.iter().map(value).collect()
}

/// What a message has of itself.
fn own(alert: &Alert) -> BTreeMap<&'static str, String> {
    let incident = if alert.topic.contains(':') { String::new() } else { alert.topic.clone() };
    BTreeMap::from([
        ("title", alert.title.clone()),
        ("text", alert.lines.join("\n")),
        ("kind", alert.kind.as_str().to_owned()),
        ("severity", alert.severity.as_str().to_owned()),
        ("node", alert.node.clone()),
        ("incident", incident),
        ("vectors", alert.vectors.join(", ")),
        ("link", alert.link.clone().unwrap_or_default()),
    ])
}

#[derive(Debug, PartialEq)]
enum Part<'a> {
    Text(&'a str),
    Name(&'a str),
}

fn parts(template: &str) -> Result<Vec<Part<'_>>, (String, String)> {
    let (mut parts, mut rest) = (Vec::new(), template);
    while let Some(at) = rest.find(['{', '}']) {
        let (before, brace) = rest.split_at(at);
        parts.push(Part::Text(before));
        if brace.starts_with("{{") || brace.starts_with("}}") {
            let (one, after) = brace.split_at(1);
            parts.push(Part::Text(one));
            rest = after.get(1..).unwrap_or_default();
            continue;
        }
        let inside = brace.strip_prefix('{').and_then(|inside| inside.split_once('}'));
        let Some((name, after)) = inside else {
            let what = "has a brace without its partner";
            return Err((what.to_owned(), "write {{ and }} for braces themselves".to_owned()));
        };
        if !PLACEHOLDERS.iter().any(|(known, _)| *known == name) {
            return Err((format!("names {{{name}}}, which is not known"), nearest(name)));
        }
        parts.push(Part::Name(name));
        rest = after;
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

fn nearest(name: &str) -> String {
    let score = |known: &str| strsim::normalized_damerau_levenshtein(known, name);
    let best = PLACEHOLDERS.iter().map(|(known, _)| (score(known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, known)) if score >= 0.5 => format!("did you mean {{{known}}}?"),
        _ => {
            let all: Vec<&str> = PLACEHOLDERS.iter().map(|(known, _)| *known).collect();
            format!("write one of {}", all.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::message::tests::opened;

    #[test]
    fn a_template_is_filled_in() {
        let alert = opened();
        let filled = |template: &str| render(template, &alert);
        assert_eq!(filled("{node}: {vector} {severity} {{x}} {pps}"), "edge1: syn_flood high {x} 48.2 kpps");
        assert_eq!(filled("{incident} {kind}"), format!("{} opened", alert.topic));
        assert_eq!(filled("no placeholder"), "no placeholder");
        assert_eq!(filled(""), "");
    }

    #[test]
    fn every_placeholder_has_a_value_or_says_that_it_may_be_empty() {
        let alert = opened();
        for (name, about) in PLACEHOLDERS {
            let value = render(&format!("{{{name}}}"), &alert);
            assert!(!value.is_empty() || about.contains("may be empty"), "{name}");
        }
    }

    #[test]
    fn mistakes_name_the_nearest() {
        for (template, what, remedy) in [
            ("{sevrity}", "{sevrity}", "{severity}"),
            ("{a {node}", "{a {node}", "{node}"),
            ("{node", "partner", "{{ and }}"),
            ("node}", "partner", "{{ and }}"),
            ("{zzzzzz}", "{zzzzzz}", "write one of title"),
        ] {
            let (said, advice) = check(template).unwrap_err();
            assert!(said.contains(what) && advice.contains(remedy), "{template}: {said}; {advice}");
        }
    }
}
