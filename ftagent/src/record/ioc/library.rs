//! The library: patterns compiled so that a packet is compared with those that can match it, and its
//! payload searched once for all texts that may stand anywhere.

use std::collections::{BTreeMap, BTreeSet};

use aho_corasick::{AhoCorasick, MatchKind};

use super::{
    field::Look,
    pattern::{Origin, Pattern},
    read::{self, Problem},
};
use crate::{decide::Packet, rule::Ranges};

/// Patterns at most.
pub const MOST_PATTERNS: usize = 2000;

/// The files that are part of the program.
const SHIPPED: [(&str, &str); 4] = [
    ("botnets.toml", include_str!("../../../patterns/botnets.toml")),
    ("tools.toml", include_str!("../../../patterns/tools.toml")),
    ("reflection.toml", include_str!("../../../patterns/reflection.toml")),
    ("protocols.toml", include_str!("../../../patterns/protocols.toml")),
];

/// What a pattern is called in metrics, where its name is an operator's.
pub const CUSTOM: &str = "custom";

/// Patterns, ready to be looked for.
#[derive(Debug)]
pub struct Library {
    patterns: Vec<Pattern>,
    /// For each IP protocol, the patterns that such a packet may match.
    by_proto: Vec<Candidates>,
    texts: Texts,
}

/// Patterns by what they ask for that can be looked up: most of those of reflection name one port.
#[derive(Debug, Default)]
struct Candidates {
    by_sport: BTreeMap<u16, Vec<u16>>,
    by_dport: BTreeMap<u16, Vec<u16>>,
    /// Those that name no port, or many.
    others: Vec<u16>,
}

/// A pattern that names more ports than this is compared with every packet of its protocol.
const MOST_PORTS: u32 = 16;

/// The texts that may stand anywhere. Needles are numbered across all patterns.
#[derive(Debug, Default)]
struct Texts {
    exact: Option<AhoCorasick>,
    nocase: Option<AhoCorasick>,
    /// The needle of each text of `exact` and of `nocase`.
    exact_ids: Vec<usize>,
    nocase_ids: Vec<usize>,
    /// Where each may begin.
    places: Vec<(usize, usize)>,
    /// For each pattern, its first needle that may stand anywhere and how many there are.
    of_pattern: Vec<(usize, usize)>,
}

/// Memory that a search needs; kept between packets.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    hits: Vec<u16>,
    found: Vec<bool>,
}

impl Library {
    /// Returns the patterns that are part of the program.
    pub fn shipped() -> Self {
        Self::of(shipped_patterns())
    }

    /// Returns no patterns at all.
    pub fn none() -> Self {
        Self::of(Vec::new())
    }

    /// Compiles patterns; those beyond 2000 are left out.
    pub fn of(mut patterns: Vec<Pattern>) -> Self {
        patterns.truncate(MOST_PATTERNS);
        patterns.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        let by_proto = (0..=u8::MAX).map(|proto| Candidates::of(&patterns, proto)).collect();
        let texts = Texts::of(&patterns);
        Self { patterns, by_proto, texts }
    }

    /// Returns the patterns, those of botnets first.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Returns a pattern by its number in this library.
    pub fn pattern(&self, number: u16) -> Option<&Pattern> {
        self.patterns.get(usize::from(number))
    }

    /// Returns what a pattern is called in metrics: names that operators make up are one.
    pub fn label(&self, number: u16) -> &str {
        self.pattern(number).filter(|pattern| pattern.origin == Origin::Shipped).map_or(CUSTOM, |pattern| &pattern.name)
    }

    /// Returns every value that [`Self::label`] may have, whatever operators write.
    pub fn labels() -> Vec<String> {
        let mut labels: Vec<String> = shipped_patterns().into_iter().map(|pattern| pattern.name).collect();
        labels.push(CUSTOM.to_owned());
        labels.sort();
        labels
    }

    /// Returns the numbers of the patterns that a packet matches.
    pub fn scan<'s>(&self, look: &Look<'_>, scratch: &'s mut Scratch) -> &'s [u16] {
        scratch.hits.clear();
        let mut searched = false;
        let subject = look.packet.subject();
        let candidates = self.by_proto.get(usize::from(look.packet.proto));
        for &number in candidates.into_iter().flat_map(|all| all.lists(look.packet)).flatten() {
            let (first, count) = self.texts.of_pattern.get(usize::from(number)).copied().unwrap_or_default();
            if count > 0 && look.payload.is_empty() {
                continue;
            }
            let pattern = self.patterns.get(usize::from(number));
            let Some(pattern) = pattern.filter(|pattern| pattern.fits(look, &subject)) else { continue };
            if count > 0 {
                if !searched {
                    self.texts.search(look.payload, &mut scratch.found);
                    searched = true;
                }
                let found = scratch.found.get(first..first + count).unwrap_or_default();
                if found.len() < count || !found.iter().all(|found| *found) {
                    continue;
                }
            }
            debug_assert!(!pattern.name.is_empty());
            scratch.hits.push(number);
        }
        // A pattern that is found by both of a packet's ports is in one list only.
        scratch.hits.sort_unstable();
        &scratch.hits
    }
}

impl Candidates {
    fn of(patterns: &[Pattern], proto: u8) -> Self {
        let mut candidates = Self::default();
        let few = |ports: &Ranges<u16>| {
            let count: u32 = ports.iter().map(|(first, last)| u32::from(last) - u32::from(first) + 1).sum();
            (1..=MOST_PORTS).contains(&count)
        };
        let mut put = |map: fn(&mut Self) -> &mut BTreeMap<u16, Vec<u16>>, ports: &Ranges<u16>, number: u16| {
            for port in ports.iter().flat_map(|(first, last)| first..=last) {
                map(&mut candidates).entry(port).or_default().push(number);
            }
        };
        let mut others = Vec::new();
        for (number, pattern) in (0u16..).zip(patterns) {
            match &pattern.matches {
                Some(matches) if !matches.proto.is_any() && !matches.proto.contains(proto) => {}
                Some(matches) if few(&matches.sport) => put(|all| &mut all.by_sport, &matches.sport, number),
                Some(matches) if few(&matches.dport) => put(|all| &mut all.by_dport, &matches.dport, number),
                _ => others.push(number),
            }
        }
        candidates.others = others;
        candidates
    }

    fn lists(&self, packet: &Packet) -> [&[u16]; 3] {
        [&self.others, on(&self.by_sport, packet.key.sport), on(&self.by_dport, packet.key.dport)]
    }
}

fn on(ports: &BTreeMap<u16, Vec<u16>>, port: u16) -> &[u16] {
    ports.get(&port).map_or(&[], Vec::as_slice)
}

impl Texts {
    fn of(patterns: &[Pattern]) -> Self {
        let mut texts = Self::default();
        let (mut exact, mut nocase) = (Vec::new(), Vec::new());
        for pattern in patterns {
            let first = texts.places.len();
            for needle in pattern.payload.iter().filter(|needle| !needle.is_fixed()) {
                let (list, ids) = match needle.nocase {
                    true => (&mut nocase, &mut texts.nocase_ids),
                    false => (&mut exact, &mut texts.exact_ids),
                };
                list.push(needle.bytes.as_slice());
                ids.push(texts.places.len());
                texts.places.push((needle.from, needle.to));
            }
            texts.of_pattern.push((first, texts.places.len() - first));
        }
        let build = |list: &[&[u8]], nocase| {
            let mut builder = AhoCorasick::builder();
            builder.match_kind(MatchKind::Standard).ascii_case_insensitive(nocase);
            (!list.is_empty()).then(|| builder.build(list).ok()).flatten()
        };
        texts.exact = build(&exact, false);
        texts.nocase = build(&nocase, true);
        texts
    }

    fn search(&self, payload: &[u8], found: &mut Vec<bool>) {
        found.clear();
        found.resize(self.places.len(), false);
        for (automaton, ids) in [(&self.exact, &self.exact_ids), (&self.nocase, &self.nocase_ids)] {
            let Some(automaton) = automaton else { continue };
            for hit in automaton.find_overlapping_iter(payload) {
                let Some(&id) = ids.get(hit.pattern().as_usize()) else { continue };
                let right = self.places.get(id).is_some_and(|(from, to)| (*from..=*to).contains(&hit.start()));
                if let Some(found) = found.get_mut(id).filter(|_| right) {
                    *found = true;
                }
            }
        }
    }
}

/// Returns the shipped patterns; a test holds that all of them can be read.
fn shipped_patterns() -> Vec<Pattern> {
    let read = |(file, text)| read::read(text, file, &Origin::Shipped).unwrap_or_default().patterns;
    SHIPPED.into_iter().flat_map(read).collect()
}

/// Puts operators' files over the shipped patterns: a name that is there already is replaced, by the later
/// file where two have it, and what is disabled is left out. A name twice in one file, and a name that is
/// disabled but not there, are problems.
pub fn merge(files: Vec<(String, String, read::PatternFile)>, problems: &mut Vec<Problem>) -> Vec<Pattern> {
    let mut all: BTreeMap<String, Pattern> =
        shipped_patterns().into_iter().map(|pattern| (pattern.name.clone(), pattern)).collect();
    let mut disabled: Vec<(String, Problem)> = Vec::new();
    for (file, text, content) in files {
        let mut own = BTreeSet::new();
        for pattern in content.patterns {
            if !own.insert(pattern.name.clone()) {
                let at = text.match_indices(&format!("\"{}\"", pattern.name)).nth(1).map_or(0, |(at, _)| at);
                let what = format!("the pattern `{}` stands twice in this file", pattern.name);
                problems.push(problem(&file, &text, at, what, "remove or rename one of them"));
            }
            all.insert(pattern.name.clone(), pattern);
        }
        for (name, at) in content.disabled {
            let what = format!("there is no pattern `{name}` to disable");
            let told = problem(&file, &text, at, what, "`ftagent ioc list` lists them; remove the name here");
            disabled.push((name, told));
        }
    }
    for (name, told) in &disabled {
        if !all.contains_key(name) {
            problems.push(told.clone());
        }
    }
    disabled.iter().for_each(|(name, _)| drop(all.remove(name)));
    if all.len() > MOST_PATTERNS {
        let what = format!("{} patterns", all.len());
        problems.push(problem("the library", "", 0, what, &format!("keep at most {MOST_PATTERNS}")));
    }
    all.into_values().collect()
}

fn problem(file: &str, text: &str, at: usize, what: String, remedy: &str) -> Problem {
    let (line, column) = read::place(text, at);
    Problem { file: file.to_owned(), line, column, what, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_can_be_read_and_says_where_it_comes_from() {
        let mut names = BTreeSet::new();
        for (file, text) in SHIPPED {
            let found = read::read(text, file, &Origin::Shipped).unwrap_or_else(|problems| {
                panic!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            });
            assert!(found.disabled.is_empty());
            for pattern in found.patterns {
                assert!(names.insert(pattern.name.clone()), "{} stands twice", pattern.name);
                assert!(pattern.source.len() >= 8, "{} has no source", pattern.name);
                assert!(!pattern.kind.names_a_tool() || !pattern.tool.is_empty(), "{} names no tool", pattern.name);
            }
        }
        assert!(names.len() >= 30, "{} patterns", names.len());
        assert_eq!(Library::labels().len(), names.len() + 1);
    }
}
