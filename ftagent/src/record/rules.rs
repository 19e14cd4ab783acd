//! The rules that the daemon made itself: `mitigation.json` in the state directory. The kernel goes
//! on enforcing them when the daemon dies, and a daemon that starts before they end goes on wanting
//! them until they do. Rules that worked are remembered there for longer.

use std::{fs, io, path::Path, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::{damaged, replace};
use crate::{
    act::store::unix,
    decide::mitigate::{Wanted, memory::Remembered},
};

/// Version 1 remembered nothing.
const VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    /// When they were wanted last, seconds since the epoch.
    at_unix: u64,
    rules: Vec<Wanted>,
    /// Rules that worked, oldest first.
    #[serde(default)]
    remembered: Vec<Remembered>,
}

/// What an earlier life of the daemon left.
#[derive(Debug, Default, PartialEq)]
pub struct Left {
    /// Rules that are still in force; the time that is left to them is in [`Wanted::ttl_ms`].
    pub rules: Vec<Wanted>,
    /// Rules that worked, oldest first.
    pub remembered: Vec<Remembered>,
    /// What the operator should know of a file that cannot be used.
    pub told: Option<String>,
}

/// Writes them.
///
/// # Errors
/// What the file system says; the old file is in place then.
pub fn save(state: &Path, rules: &[Wanted], remembered: &[Remembered]) -> io::Result<()> {
    let saved = Saved {
        version: VERSION,
        at_unix: unix(SystemTime::now()),
        rules: rules.to_vec(),
        remembered: remembered.to_vec(),
    };
    replace(&state.join("mitigation.json"), &serde_json::to_vec(&saved)?)
}

/// Reads what is still in force or remembered.
pub fn load(state: &Path) -> Left {
    let path = state.join("mitigation.json");
    let problem = match fs::read(&path).and_then(|text| Ok(serde_json::from_slice::<Saved>(&text)?)) {
        Ok(Saved { version: 1 | VERSION, at_unix, mut rules, remembered }) => {
            let passed_ms = unix(SystemTime::now()).saturating_sub(at_unix).saturating_mul(1000);
            rules.retain_mut(|rule| {
                rule.ttl_ms = rule.ttl_ms.saturating_sub(passed_ms);
                rule.ttl_ms > 0
            });
            return Left { rules, remembered, told: None };
        }
        Ok(Saved { version, .. }) => format!("is of version {version}, and this program reads up to {VERSION}"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Left::default(),
        Err(error) => format!("cannot be read ({error})"),
    };
    let consequence = "rules that the daemon made before end by themselves, and what attacks still gets new ones; no \
                       signature of an earlier attack is armed";
    Left { told: Some(damaged(&path, &problem, consequence)), ..Left::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decide::Vector,
        rule::{Action, Origin, Rule},
    };

    fn wanted(id: u32, ttl_ms: u64) -> Wanted {
        let matches = "udp sport 123 len 400-1500".parse().unwrap();
        let origin = Origin::Incident("20260801T120000Z-1".to_owned());
        Wanted { id, rule: Rule { matches, action: Action::Drop, origin, reason: "ntp".to_owned() }, ttl_ms }
    }

    fn remembered() -> Remembered {
        Remembered {
            matches: "udp sport 123 len 468".parse().unwrap(),
            action: Action::Drop,
            predicted: Default::default(),
            incident: "20260801T120000Z-1".to_owned(),
            vectors: vec![Vector::NtpAmplification],
            classes: ["udp_src_ntp".to_owned()].into(),
            worked_unix_ms: 1_700_000_000_000,
            calm_pps: 3.0,
        }
    }

    #[test]
    fn what_has_not_ended_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()), Left::default());
        save(dir.path(), &[wanted(1, 60_000), wanted(2, 0)], &[remembered()]).unwrap();
        let Left { rules, remembered: known, told } = load(dir.path());
        assert_eq!((rules.len(), known.as_slice(), told), (1, &[remembered()][..], None));
        assert!(rules[0].rule == wanted(1, 0).rule && (50_000..=60_000).contains(&rules[0].ttl_ms), "{rules:?}");
        let text = fs::read_to_string(dir.path().join("mitigation.json")).unwrap();
        let at = text.split_once("\"at_unix\":").unwrap().1.split(',').next().unwrap().to_owned();
        let older = (at.parse::<u64>().unwrap() - 61).to_string();
        fs::write(dir.path().join("mitigation.json"), text.replace(&at, &older)).unwrap();
        let left = Left { remembered: vec![remembered()], ..Left::default() };
        assert_eq!(load(dir.path()), left, "a minute later");
    }

    #[test]
    fn the_file_of_an_older_version_is_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mitigation.json"), r#"{"version":1,"at_unix":1,"rules":[]}"#).unwrap();
        assert_eq!(load(dir.path()), Left::default());
    }

    #[test]
    fn a_file_that_cannot_be_used_is_told() {
        for text in ["", "{}", "{\"version\":9,\"at_unix\":1,\"rules\":[]}"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("mitigation.json"), text).unwrap();
            let Left { rules, remembered, told } = load(dir.path());
            let told = told.unwrap();
            assert!(rules.is_empty() && remembered.is_empty());
            assert!(told.contains("mitigation.json.bad-") && told.contains("end by themselves"), "{told}");
        }
    }
}
