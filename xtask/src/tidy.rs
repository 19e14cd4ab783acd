//! `cargo xtask tidy`: the rules of this repository that no compiler knows, as code.
//!
//! Reads every file that git tracks or would track. Each finding names the place, the rule and the remedy; all are
//! shown, not only the first.

mod layers;
mod repository;
mod source;
mod text;

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// A tracked file. `path` is relative to the root of the repository, with forward slashes.
struct File {
    path: String,
    text: String,
    /// For Rust: the text with comments and the contents of literals blanked, line for line.
    code: Option<String>,
}

/// One violation: where, and what to do about it. Line 0 stands for the file as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        let code = path.ends_with(".rs").then(|| source::blanked(text));
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    fn finding(&self, line: usize, message: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, message: message.into() }
    }
}

pub(crate) fn run() -> Result<()> {
    let files = tracked_files()?;
    let findings = check(&files);
    for Finding { path, line, message } in &findings {
        match line {
            0 => eprintln!("{path}: {message}"),
            line => eprintln!("{path}:{line}: {message}"),
        }
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings in {} files", findings.len(), files.len());
    }
    println!("tidy: {} files, nothing to complain about", files.len());
    Ok(())
}

fn check(files: &[File]) -> Vec<Finding> {
    let mut findings: Vec<_> =
        files.iter().flat_map(|file| [layers::check(file), text::check(file)].concat()).collect();
    findings.extend(repository::check(files));
    findings
}

fn tracked_files() -> Result<Vec<File>> {
    let root = command::root();
    let mut git = Command::new("git");
    // The clone may belong to another user than the one who tests it.
    git.arg("-c").arg(format!("safe.directory={}", root.display()));
    git.current_dir(&root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let list = command::output(&mut git).context("tidy reads the list of files from git")?;
    let mut files = Vec::new();
    for path in list.split_terminator('\0') {
        let full: PathBuf = root.join(path);
        if !full.is_file() {
            continue; // deleted, but not yet from the index
        }
        let bytes = fs::read(&full).with_context(|| full.display().to_string())?;
        files.push(File::new(path, &String::from_utf8_lossy(&bytes)));
    }
    Ok(files)
}
