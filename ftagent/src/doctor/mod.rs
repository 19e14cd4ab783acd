//! `ftagent doctor`: what this machine can do, what is missing, and how to mend it.
//!
//! It only reads, and only below the roots it is given; the one exception is the state
//! directory, of which it asks the kernel whether it can be written.

mod drivers;
mod interface;
mod system;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use serde::Serialize;

use crate::{
    act::nft::{Hook, NftError},
    config::{Config, ConfigError, InterfaceName, RulePlane},
    sense::host::{HostFacts, HostRoot},
};

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Could not be looked at.
    Skip,
    /// Works, but not as well as it could.
    Warn,
    /// The agent does not work like this.
    Fail,
}

impl State {
    /// Returns the word that tables show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skip => "skip",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at; those of an interface start with its name.
    pub name: String,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// How to mend it; `None` where there is nothing to mend.
    pub remedy: Option<String>,
}

impl Check {
    fn new(name: impl Into<String>, state: State, found: impl Into<String>) -> Self {
        Self { name: name.into(), state, found: found.into(), remedy: None }
    }

    fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(name, State::Ok, found)
    }

    fn mend(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

/// An XDP program on an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachedXdp {
    /// The kernel's number of the program.
    pub program_id: u32,
    /// Its name, where it could be read.
    pub name: Option<String>,
    /// In which mode it is attached: `native`, `generic` or `offload`.
    pub mode: String,
    /// Whether it is this agent's.
    pub ours: bool,
}

/// What the doctor looks at.
pub struct DoctorInput<'a> {
    /// The configuration, or what is wrong with it; then the defaults are looked at.
    pub config: Result<&'a Config, &'a ConfigError>,
    /// Where facts are read from.
    pub root: &'a HostRoot,
    /// The capabilities that are in effect: [`capabilities`].
    pub capabilities: &'a BTreeSet<String>,
    /// Returns the XDP program on the interface with an index.
    pub xdp_of: &'a dyn Fn(u32) -> Option<AttachedXdp>,
    /// Returns where a table of nftables would hang on these interfaces; asked where rules are to be there.
    pub nft: &'a dyn Fn(&[String]) -> Result<Hook, NftError>,
}

/// Returns the names of the capabilities that are in effect in this thread.
pub fn capabilities() -> BTreeSet<String> {
    let effective = caps::read(None, caps::CapSet::Effective).unwrap_or_default();
    effective.into_iter().map(|capability| capability.to_string()).collect()
}

/// Makes every check, those of the system first, then interface by interface.
pub fn run(input: &DoctorInput<'_>) -> Vec<Check> {
    let default = Config::default();
    let config = input.config.unwrap_or(&default);
    let facts = HostFacts::read(input.root);
    let mut checks = vec![configuration(input.config)];
    checks.extend(system::checks(input, config));
    let mut seen = Vec::new();
    for name in &config.interfaces.names {
        match name {
            InterfaceName::Named(name) => seen.push(name.clone()),
            InterfaceName::Auto => {
                let found = facts.default_interfaces();
                if found.is_empty() {
                    let check = Check::new("interface auto", State::Fail, "this host has no default route");
                    checks.push(check.mend("name the interface in `interfaces.names`"));
                }
                seen.extend(found.into_iter().map(str::to_owned));
            }
        }
    }
    seen.sort();
    seen.dedup();
    if config.mitigation.plane == RulePlane::Nftables {
        checks.push(nftables((input.nft)(&seen)));
    }
    for name in seen {
        checks.extend(interface::checks(input, config, &name));
    }
    checks.extend(facts.problems.iter().map(|problem| {
        Check::new("host facts", State::Warn, problem.as_str()).mend("run as root; blocks are checked against these")
    }));
    checks
}

fn configuration(config: Result<&Config, &ConfigError>) -> Check {
    match config {
        Ok(_) => Check::ok("configuration", "valid"),
        Err(error) => Check::new("configuration", State::Fail, error.to_string())
            .mend("mend these lines; `ftagent config check` checks again. The defaults are looked at below"),
    }
}

fn nftables(hook: Result<Hook, NftError>) -> Check {
    let name = "nftables";
    match hook {
        Ok(Hook::Ingress) => Check::ok(name, "`nft` is there, and the kernel has the ingress hook"),
        Ok(Hook::Prerouting) => Check::new(
            name,
            State::Warn,
            "the kernel has no ingress hook: rules see packets before routing, behind the IP stack's own checks",
        )
        .mend("run a kernel with CONFIG_NETFILTER_INGRESS=y, as all current distributions have"),
        Err(error @ NftError::Missing(..)) => {
            Check::new(name, State::Fail, "there is no `nft`").mend(error.to_string())
        }
        Err(error) => Check::new(name, State::Fail, error.to_string())
            .mend("run as root, with a kernel that has nf_tables; or set `mitigation.plane = \"xdp\"`"),
    }
}

/// Returns the process's exit code: 1 where a check failed, else 0.
pub fn exit_code(checks: &[Check]) -> u8 {
    u8::from(checks.iter().any(|check| check.state == State::Fail))
}

/// Renders the checks as a table for people; remedies stand below what they mend.
pub fn table(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let indent = width + 8;
    let mut text = String::new();
    for check in checks {
        let found = check.found.replace('\n', &format!("\n{:indent$}", ""));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:4}  {:width$}  {found}", check.state.as_str(), check.name);
        if let Some(remedy) = &check.remedy {
            let _ = writeln!(text, "{:indent$}> {remedy}", "");
        }
    }
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let _ = writeln!(
        text,
        "{} checks: {} failed, {} with a warning, {} skipped",
        checks.len(),
        count(State::Fail),
        count(State::Warn),
        count(State::Skip)
    );
    text
}

/// Reads a small file without its white space at the ends; `None` where it cannot be read.
fn text(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Reads the version out of a kernel's release, as `6.18.44-cloud-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Returns the running kernel's version.
fn kernel(root: &HostRoot) -> Option<(u32, u32)> {
    version(&text(&root.proc.join("sys/kernel/osrelease"))?)
}
