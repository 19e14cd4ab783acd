//! What can be wrong with a configuration.

use std::{fmt, path::PathBuf};

use serde::Serialize;
use thiserror::Error;

/// Why a configuration was not taken. Displays one line per problem.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot be read: {source}; create it (`ftagent config default` prints one) or name another with --config", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in it is wrong.
    #[error("{}", lines(origin, problems))]
    Invalid {
        /// The file, or what else the text came from.
        origin: String,
        /// Every problem, in the order of the file.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// Returns the problems with what is written; none where the file could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Read { .. } => &[],
            Self::Invalid { problems, .. } => problems,
        }
    }
}

/// One problem in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The TOML path of the key, as `feeds[1].path`; empty where the text is no TOML.
    pub path: String,
    /// The line, from 1; `None` where the key is not written.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    pub(super) fn new(path: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { path: path.into(), line: None, what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "`{}`: ", self.path)?;
        }
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

fn lines(origin: &str, problems: &[Problem]) -> String {
    let line = |problem: &Problem| match problem.line {
        Some(line) => format!("{origin}:{line}: {problem}"),
        None => format!("{origin}: {problem}"),
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}
