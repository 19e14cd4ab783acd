//! Installing Debian packages without a question, beside whoever else holds APT's locks.

use std::{
    fs,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// How long to wait for another process that installs packages, such as unattended-upgrades.
const LOCK_PATIENCE: Duration = Duration::from_secs(600);

/// The file beside what is unpacked that names the packages which this system does not have.
const UNAVAILABLE: &str = "unavailable";

/// APT on this machine.
pub(super) struct Apt(());

impl Apt {
    /// Returns APT if this system has it.
    pub(super) fn find() -> Option<Self> {
        (command::which("apt-get").is_some() && command::which("dpkg-query").is_some()).then_some(Self(()))
    }

    /// Installs all of the packages. Returns false, having installed none, when one is not available here.
    ///
    /// # Errors
    /// Fails when APT does, or when root is needed and cannot be had.
    pub(super) fn install_all(&self, packages: &[&str]) -> Result<bool> {
        let missing = self.missing(packages)?;
        if !missing.is_empty() {
            self.update()?;
            for package in &missing {
                if !self.available(package)? {
                    println!("{package}: not available from this system's package sources");
                    return Ok(false);
                }
            }
            self.install(&missing)?;
        }
        self.tell(packages, &missing)?;
        Ok(true)
    }

    /// Installs those of the packages that are available, and names the others.
    ///
    /// # Errors
    /// Fails like [`Self::install_all`].
    pub(super) fn install_available(&self, packages: &[&str]) -> Result<()> {
        let mut missing = self.missing(packages)?;
        let mut present = packages.to_vec();
        if !missing.is_empty() {
            self.update()?;
            for package in missing.clone() {
                if !self.available(package)? {
                    println!("{package}: not available here; the tests that use it skip themselves and say so");
                    missing.retain(|name| *name != package);
                    present.retain(|name| *name != package);
                }
            }
            if !missing.is_empty() {
                self.install(&missing)?;
            }
        }
        self.tell(&present, &missing)
    }

    /// Unpacks those of the packages that are available below a directory, and names the others. The path beside each
    /// is there once it is unpacked.
    ///
    /// # Errors
    /// Fails like [`Self::install_all`].
    pub(super) fn unpack_available(&self, packages: &[(&str, &str)], into: &Path) -> Result<()> {
        let missing: Vec<_> = packages.iter().filter(|(_, path)| !into.join(path).exists()).collect();
        if missing.is_empty() {
            println!("peers of tests: all present in {}", into.display());
            return Ok(());
        }
        let downloads = into.join("packages");
        fs::create_dir_all(&downloads).with_context(|| downloads.display().to_string())?;
        let (mut updated, mut unavailable) = (false, String::new());
        for (package, path) in missing {
            if !self.available(package)? && !updated {
                self.update()?;
                updated = true;
            }
            if !self.available(package)? {
                println!("{package}: not available here; the tests that use it skip themselves and say so");
                unavailable += &format!("{package}\n");
                continue;
            }
            self.download(package, &downloads, &mut updated)?;
            for entry in fs::read_dir(&downloads).with_context(|| downloads.display().to_string())? {
                let file = entry?.path();
                let output = Command::new("dpkg-deb").arg("--extract").args([&file, into]).output();
                let output = output.context("cannot start dpkg-deb")?;
                if !output.status.success() {
                    bail!("unpacking {package} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
                }
                fs::remove_file(&file).with_context(|| file.display().to_string())?;
            }
            if !into.join(path).exists() {
                bail!("{package} was unpacked, but there is no {path} in it: this Debian has another layout");
            }
            println!("{package}: unpacked below {}, not installed", into.display());
        }
        let file = into.join(UNAVAILABLE);
        fs::write(&file, unavailable).with_context(|| file.display().to_string())
    }

    /// Downloads a package; lists that are out of date name versions that are gone.
    fn download(&self, package: &str, into: &Path, updated: &mut bool) -> Result<()> {
        loop {
            let mut download = english("apt-get");
            download.args(["download", "--quiet", package]).current_dir(into);
            let output = download.output().context("cannot start apt-get")?;
            if output.status.success() {
                return Ok(());
            }
            if *updated {
                bail!("apt-get download {package} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            self.update()?;
            *updated = true;
        }
    }

    fn tell(&self, packages: &[&str], installed: &[&str]) -> Result<()> {
        for package in packages {
            let version = version(package)?.with_context(|| {
                format!("APT reported success, but {package} is not installed: `apt-get check` may tell why")
            })?;
            let verb = if installed.contains(package) { "installed" } else { "present" };
            println!("{package}: {verb}, {version}");
        }
        Ok(())
    }

    fn missing<'a>(&self, packages: &[&'a str]) -> Result<Vec<&'a str>> {
        let mut missing = Vec::new();
        for package in packages {
            if version(package)?.is_none() {
                missing.push(*package);
            }
        }
        Ok(missing)
    }

    fn available(&self, package: &str) -> Result<bool> {
        let policy = command::output(english("apt-cache").args(["policy", package]))?;
        Ok(has_candidate(&policy))
    }

    /// Refreshes the package lists. Waits while another process does the same: APT's own lock timeout does not cover
    /// the lists.
    fn update(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let output = apt_get("update", &[])?.output().context("cannot start apt-get")?;
            if output.status.success() {
                println!("package lists: updated");
                return Ok(());
            }
            let stderr = String::from_utf8_lossy(&output.stderr);
            if !is_locked(&stderr) || start.elapsed() > LOCK_PATIENCE {
                bail!("apt-get update failed: {}", stderr.trim());
            }
            println!("package lists: another process holds the lock, waiting");
            sleep(Duration::from_secs(5));
        }
    }

    fn install(&self, packages: &[&str]) -> Result<()> {
        println!("installing {}", packages.join(", "));
        // --no-remove: Debian's rustc and rustc-web exclude each other, and setup takes nothing away.
        let mut options = vec!["--yes", "--quiet", "--no-install-recommends", "--no-remove"];
        options.extend(packages);
        let output = apt_get("install", &options)?.output().context("cannot start apt-get")?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("apt-get install {} failed: {}", packages.join(" "), stderr.trim());
        }
        Ok(())
    }
}

/// Returns those of the packages that are not unpacked below a directory, though this system has them as far as is
/// known: see [`Apt::unpack_available`].
pub(super) fn missing_below<'a>(packages: &[(&'a str, &str)], dir: &Path) -> Vec<&'a str> {
    let unavailable = fs::read_to_string(dir.join(UNAVAILABLE)).unwrap_or_default();
    let is_missing =
        |package: &str, path: &str| !dir.join(path).exists() && !unavailable.lines().any(|name| name == package);
    packages.iter().filter(|(package, path)| is_missing(package, path)).map(|(package, _)| *package).collect()
}

/// Returns the version of a package, or none if it is not completely installed.
fn version(package: &str) -> Result<Option<String>> {
    let mut query = english("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Abbrev} ${Version}\n", package]);
    // dpkg-query fails on a package that it has never heard of.
    let output = query.output().context("cannot start dpkg-query")?;
    Ok(installed_version(&String::from_utf8_lossy(&output.stdout)))
}

fn installed_version(listing: &str) -> Option<String> {
    listing.lines().find_map(|line| Some(line.strip_prefix("ii ")?.trim().to_owned()))
}

fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate:"))
        .any(|candidate| candidate.trim() != "(none)")
}

fn is_locked(stderr: &str) -> bool {
    stderr.contains("Could not get lock") || stderr.contains("Unable to lock")
}

fn apt_get(verb: &str, options: &[&str]) -> Result<Command> {
    let assignments = ["LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"];
    let lock = format!("DPkg::Lock::Timeout={}", LOCK_PATIENCE.as_secs());
    if !command::is_root() && command::which("sudo").is_none() {
        let packages = options.iter().filter(|option| !option.starts_with('-')).copied().collect::<Vec<_>>();
        bail!(
            "installing packages needs root, and there is no sudo. As root, run `cargo xtask setup`, or `apt-get update` \
             and `apt-get install --no-install-recommends {}`",
            if packages.is_empty() { "<what is missing above>".to_owned() } else { packages.join(" ") }
        );
    }
    // By env(1), because sudo does not hand the environment on.
    let mut command = command::as_root("env", "install packages")?;
    command.args(assignments).args(["apt-get", verb, "-o", &lock]).args(options);
    command.stdin(std::process::Stdio::null());
    Ok(command)
}

fn english(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_installed_only_when_dpkg_says_ii() {
        assert_eq!(installed_version("ii  1:6.1-1\n").as_deref(), Some("1:6.1-1"));
        for other in ["", "un  \n", "rc  1.0\n", "iF  1.0\n"] {
            assert_eq!(installed_version(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_package_without_a_candidate_is_not_available() {
        assert!(has_candidate("bpftool:\n  Installed: (none)\n  Candidate: 7.1.0\n"));
        assert!(!has_candidate("bpftool:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }

    #[test]
    fn what_was_not_unpacked_is_missed_but_for_what_is_not_to_be_had() {
        let dir = std::env::temp_dir().join(format!("ftagent-xtask-{}", std::process::id()));
        let packages = [("one", "usr/bin/one"), ("two", "usr/bin/two"), ("three", "usr/bin/three")];
        assert_eq!(missing_below(&packages, &dir), ["one", "two", "three"], "there is no directory");
        fs::create_dir_all(dir.join("usr/bin")).unwrap();
        assert_eq!(missing_below(&packages, &dir).len(), 3, "a directory alone is nothing");
        fs::write(dir.join("usr/bin/one"), "").unwrap();
        fs::write(dir.join(UNAVAILABLE), "three\n").unwrap();
        assert_eq!(missing_below(&packages, &dir), ["two"]);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_held_list_lock_is_told_from_other_failures() {
        assert!(is_locked("E: Could not get lock /var/lib/apt/lists/lock. It is held by process 17 (apt-get)"));
        assert!(!is_locked("E: Failed to fetch http://deb.example/dists/InRelease"));
    }
}
