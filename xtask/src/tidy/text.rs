//! Rules about one file at a time: what may not stand in it, and how long it may be.

use super::{
    File, Finding,
    source::{line_of, words},
};

/// A file longer than this has more than one subject.
const MAX_LINES: usize = 600;

/// A file larger than this is data that does not belong in the repository, such as a capture.
const MAX_BYTES: usize = 1 << 20;

/// Where `unsafe` may be written. Everywhere else the compiler or this rule refuses it.
const UNSAFE_HOMES: [&str; 17] = [
    "ftagent/src/sys/",
    "ftagent-common/src/abi.rs",
    "ftagent-common/src/parse/headers.rs",
    "ftagent-ebpf/src/packet.rs",
    "ftagent-ebpf/src/maps.rs",
    "ftagent-ebpf/src/guard.rs",
    "ftagent-ebpf/src/guard/ends.rs",
    "ftagent-ebpf/src/lists.rs",
    "ftagent-ebpf/src/rules.rs",
    "ftagent-ebpf/src/rules/",
    "ftagent-ebpf/src/sample.rs",
    "ftagent-ebpf/src/capture.rs",
    "ftagent-ebpf/src/tripwire.rs",
    "ftagent-ebpf/src/traffic/",
    "ftagent-ebpf/src/bench.rs",
    "tests/src/",
    "tests/tests/",
];

/// Unfinished work is an issue in the tracker. Written in halves, so that this file passes its own rule.
const MARKERS: [&str; 4] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("HA", "CK")];

/// Paths that exist on one machine only; captures are reached as `../shared/captures`.
const MACHINE_PATHS: [&str; 2] = [concat!("/ro", "ot/"), concat!("/wo", "rk/")];

pub(super) fn check(file: &File) -> Vec<Finding> {
    let mut findings = [size(file), markers(file), machine_paths(file)].concat();
    if let Some(code) = &file.code {
        findings.extend(unsafe_code(file, code));
        findings.extend(exceptions(file, code));
    }
    findings
}

fn size(file: &File) -> Vec<Finding> {
    let lines = file.text.lines().count();
    if file.code.is_some() && lines > MAX_LINES {
        return vec![file.finding(0, format!("{lines} lines: split it along a real seam, at most {MAX_LINES}"))];
    }
    if file.text.len() > MAX_BYTES {
        return vec![file.finding(0, "larger than 1 MiB: captures and other data stay outside the repository")];
    }
    Vec::new()
}

fn markers(file: &File) -> Vec<Finding> {
    let found = MARKERS.iter().flat_map(|marker| words(&file.text, marker).map(move |at| (at, marker)));
    let finding = |(at, marker)| {
        file.finding(line_of(&file.text, at), format!("{marker}: finish it, or open an issue and say what is lacking"))
    };
    found.map(finding).collect()
}

fn machine_paths(file: &File) -> Vec<Finding> {
    let found = MACHINE_PATHS.iter().flat_map(|path| file.text.match_indices(path));
    // A path that merely ends that way, such as "../home/x", is someone's own directory name.
    let found = found.filter(|(at, _)| {
        let before = file.text.get(..*at).and_then(|text| text.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '}'))
    });
    let finding = |(at, path)| file.finding(line_of(&file.text, at), format!("`{path}` is a path of one machine only"));
    found.map(finding).collect()
}

fn unsafe_code(file: &File, code: &str) -> Vec<Finding> {
    let at_home = UNSAFE_HOMES.iter().any(|home| file.path.starts_with(home));
    let marked = file.path.starts_with("ftagent/src/sys/") || code.contains("expect(unsafe_code");
    let mut findings = Vec::new();
    for at in words(code, "unsafe") {
        let attribute = code.get(at..).is_some_and(|rest| rest.starts_with("unsafe("));
        let line = line_of(code, at);
        if attribute && file.path.starts_with("ftagent-ebpf/src/") {
            continue; // `#[unsafe(link_section = …)]`: the compiler wants its own `expect` there
        }
        if !at_home {
            findings.push(file.finding(line, format!("`unsafe` outside its homes ({})", UNSAFE_HOMES.join(", "))));
        } else if !marked {
            findings.push(file.finding(line, "`unsafe` in a file that does not say `expect(unsafe_code, reason = …)`"));
        }
    }
    findings
}

/// Lints switched off without a reason, and tests that never run.
fn exceptions(file: &File, code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for lint in ["allow", "expect"] {
        for at in words(code, lint) {
            let is_attribute =
                code.get(..at).is_some_and(|before| before.ends_with('[') || before.ends_with("[cfg_attr("));
            let Some(arguments) = code.get(at + lint.len()..).and_then(|rest| rest.strip_prefix('(')) else { continue };
            let arguments = arguments.split(')').next().unwrap_or_default();
            if is_attribute && words(arguments, "reason").next().is_none() {
                findings.push(file.finding(line_of(code, at), format!("`{lint}(…)` without a `reason`")));
            }
        }
    }
    let ignored = code.match_indices("#[ignore");
    findings.extend(ignored.map(|(at, _)| {
        file.finding(line_of(code, at), "a test that never runs: let it skip itself, say so, and count it")
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn findings(path: &str, text: &str, expected: usize) {
        let found = check(&File::new(path, text));
        assert_eq!(found.len(), expected, "{path}: {text}: {found:?}");
    }

    #[test]
    fn unsafe_stays_at_home_and_is_announced() {
        let announced = "#![expect(unsafe_code, reason = \"system calls\")]\nfn f() { unsafe { g() } }";
        findings("ftagent/src/bpf/load.rs", announced, 1);
        findings("ftagent/src/sys/mmap.rs", "fn f() { unsafe { g() } }", 0);
        findings("ftagent-ebpf/src/maps.rs", announced, 0);
        findings("tests/src/sandbox.rs", announced, 0);
        findings("tests/src/sandbox.rs", "fn f() { unsafe { g() } }", 1);
        findings("ftagent-ebpf/src/main.rs", "#[unsafe(no_mangle)] static A: u8 = 0;", 0);
        findings("ftagent/src/lib.rs", "#![deny(unsafe_code)] // no unsafe here", 0);
    }

    #[test]
    fn markers_of_unfinished_work_are_found_in_any_file() {
        findings("README.md", &format!("{}: write this", MARKERS[0]), 1);
        findings("src/a.rs", &format!("// {} later", MARKERS[1]), 1);
        findings("src/a.rs", "let template = \"a.XXXXXX\";", 0);
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        findings("a.rs", &format!("const A: &str = \"{}x\";", MACHINE_PATHS[0]), 1);
        findings("a.md", "see ../shared/captures and net/work/queue", 0);
    }

    #[test]
    fn an_exception_needs_a_reason() {
        findings("a.rs", "#[allow(dead_code)] fn f() {}", 1);
        findings("a.rs", "#[expect(dead_code, reason = \"used by tests\")] fn f() {}", 0);
        findings("a.rs", "let x = y.expect(\"there\"); allow(1);", 0);
        findings("a.rs", "#[test] #[ignore] fn f() {}", 1);
    }

    #[test]
    fn a_file_has_an_end() {
        findings("a.rs", &"\n".repeat(MAX_LINES), 0);
        findings("a.rs", &"\n".repeat(MAX_LINES + 1), 1);
        findings("a.md", &"\n".repeat(MAX_LINES + 1), 0);
    }
}
