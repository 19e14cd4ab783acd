//! Rules about the repository as a whole: what it must contain, and what its first page says.

use super::{File, Finding};

/// Files without which a clone is not usable or not licensed.
const REQUIRED: [&str; 7] =
    ["Cargo.lock", "LICENSE-MIT", "LICENSE-APACHE", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", ".ci/run"];

/// The one place that locked dependencies may come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The commands that README shows before any other, in this order; the demo may stand between them.
const FIRST_COMMANDS: [&str; 2] = ["cargo xtask run", "cargo xtask test"];

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings: Vec<_> = REQUIRED
        .iter()
        .filter(|path| !files.iter().any(|file| file.path == **path && !file.text.trim().is_empty()))
        .map(|path| Finding { path: (*path).to_owned(), line: 0, message: "missing or empty".to_owned() })
        .collect();
    for file in files {
        match file.path.as_str() {
            "README.md" => findings.extend(first_commands(file)),
            "Cargo.lock" => findings.extend(sources(file)),
            ".cargo/config.toml" => findings.extend(no_mirror(file)),
            path if path.ends_with("/Cargo.toml") => findings.extend(licence(file)),
            _ => {}
        }
    }
    findings
}

fn first_commands(readme: &File) -> Option<Finding> {
    let commands =
        readme.text.lines().enumerate().map(|(index, line)| (index + 1, line.trim().trim_start_matches("$ ")));
    let mut commands = commands.filter(|(_, line)| line.starts_with("cargo ") && !line.starts_with("cargo xtask demo"));
    for wanted in FIRST_COMMANDS {
        match commands.next() {
            Some((_, line)) if line.starts_with(wanted) => {}
            Some((line, _)) => {
                return Some(readme.finding(line, format!("`{wanted}` must be shown before this command")));
            }
            None => return Some(readme.finding(0, format!("does not show `{wanted}` on a line of its own"))),
        }
    }
    None
}

fn sources(lock: &File) -> Vec<Finding> {
    let sources =
        lock.text.lines().enumerate().filter_map(|(index, line)| Some((index + 1, line.strip_prefix("source = ")?)));
    let foreign = sources.filter(|(_, source)| source.trim_matches('"') != REGISTRY);
    foreign
        .map(|(line, source)| lock.finding(line, format!("a dependency from {source}: only crates.io is allowed")))
        .collect()
}

fn no_mirror(config: &File) -> Vec<Finding> {
    let lines = config.text.lines().enumerate();
    let mirrors = lines.filter(|(_, line)| line.starts_with("[source") || line.starts_with("[registr"));
    mirrors.map(|(index, _)| config.finding(index + 1, "a registry mirror is a setting of one machine")).collect()
}

fn licence(manifest: &File) -> Option<Finding> {
    let licensed = manifest.text.lines().any(|line| line.starts_with("license"));
    (!licensed).then(|| manifest.finding(0, "states no licence: `license.workspace = true`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_shows_run_and_test_first() {
        let cases = [
            ("```\ncargo xtask run\ncargo xtask test\ncargo doc\n```", true),
            ("$ cargo xtask run\ncargo xtask demo\n$ cargo xtask test", true),
            ("cargo build\ncargo xtask run\ncargo xtask test", false),
            ("cargo xtask run", false),
            ("", false),
        ];
        for (text, good) in cases {
            assert_eq!(first_commands(&File::new("README.md", text)).is_none(), good, "{text}");
        }
    }

    #[test]
    fn dependencies_come_from_crates_io() {
        let lock =
            |source: &str| File::new("Cargo.lock", &format!("[[package]]\nname = \"a\"\nsource = \"{source}\"\n"));
        assert!(sources(&lock(REGISTRY)).is_empty());
        assert_eq!(sources(&lock("git+https://example.org/a")).len(), 1);
    }

    #[test]
    fn a_missing_licence_is_found() {
        let found = check(&[File::new("Cargo.lock", "version = 4"), File::new("a/Cargo.toml", "[package]")]);
        assert!(found.iter().any(|finding| finding.path == "LICENSE-MIT"));
        assert!(found.iter().any(|finding| finding.path == "a/Cargo.toml"));
        assert!(!found.iter().any(|finding| finding.path == "Cargo.lock"));
    }
}
