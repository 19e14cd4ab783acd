//! Replays that are written down decide the same when they are replayed: captures, scenarios, and the command.
//!
//! They need root; without, the tests say so and end. `evaluate --capsules` goes through every scenario.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, path::Path, process::Command};

use ftagent::replay::{Options, ReplayError, capsule, run};
use ftagent_tests::{
    evaluate::{
        capsules::{Again, again, generated},
        compose::Case,
        list::List,
        run::{all_cases, missing},
    },
    require_root,
    sandbox::skip,
};

/// One of each kind that can be generated without captures.
const GENERATED: [&str; 8] = [
    "mirai_syn",
    "ntp_1400",
    "fragments_udp",
    "http_get_flood",
    "gre_flood",
    "malformed_flood",
    "connection_flood",
    "flash_crowd",
];

/// Writes cases down and replays them; `at` is where they look for captures.
fn all_identical(cases: &[Case], at: &Path) {
    let outcomes = again(cases, at, 2, &|_, _| ()).unwrap();
    let told = |again: &Again| again.wrong.as_ref().map(|wrong| format!("{}: {wrong}", again.name));
    assert_eq!(outcomes.iter().filter_map(told).collect::<Vec<_>>(), Vec::<String>::new());
    outcomes.iter().for_each(|again| println!("{again:?}"));
    assert!(outcomes.iter().any(|again| again.decisions > 3), "nothing was decided");
}

#[test]
fn what_can_be_generated_replays_to_the_same_decisions() {
    require_root!();
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().canonicalize().unwrap();
    all_identical(&generated(&GENERATED, &at).unwrap(), &at);
}

#[test]
fn scenarios_replay_to_the_same_decisions() {
    if let Some(missing) = missing() {
        return skip("scenarios_replay_to_the_same_decisions", missing);
    }
    let dir = tempfile::tempdir().unwrap();
    let list = List::load().unwrap();
    let names: Vec<&String> = list.ci.held.iter().take(6).chain(list.ci.ordinary.iter().take(2)).collect();
    let mut cases = all_cases(&list, dir.path()).unwrap();
    cases.retain(|case| names.contains(&&case.name));
    all_identical(&cases, dir.path());
}

#[test]
fn the_command_says_identical_or_where_it_differs() {
    require_root!();
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().canonicalize().unwrap();
    let cases = generated(&["mirai_syn"], &at).unwrap();
    // Writes the captures, too.
    again(&cases, &at, 1, &|_, _| ()).unwrap();
    let scenario = at.join("scenario.toml");
    fs::write(&scenario, &cases.first().unwrap().text).unwrap();
    let out = at.join("run.ftcapsule");
    let options = Options { scenario: Some(scenario), capsule: Some(out.clone()), ..Options::default() };
    let report = run(&options).unwrap();
    assert_eq!(report.incidents.len(), 1);
    // What patterns say of the packets is part of what is decided, and of what must be the same again.
    let incident = report.incidents.first().unwrap();
    let named = incident.named.clone().unwrap();
    assert_eq!(
        (named.tool.as_str(), incident.tool.as_deref(), incident.closed_ms.is_some()),
        ("Mirai", Some("Mirai"), true)
    );
    assert!(named.pattern == "mirai_scan" && named.share > 0.9, "{named:?}");
    let error = run(&options).unwrap_err();
    assert!(matches!(error, ReplayError::Write { .. }), "what is there is not replaced: {error}");
    assert!(capsule::replay(&out).unwrap().identical);

    let ftagent = |args: &[&str]| {
        let done = Command::new(ftagent_tests::daemon::binary().unwrap()).args(args).output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap();
        (done.status.code(), text)
    };
    let path = out.to_str().unwrap();
    let (code, text) = ftagent(&["replay", path]);
    assert!(code == Some(0) && text.contains("decisions: identical"), "{text}");
    let (_, text) = ftagent(&["replay", "--scenario", at.join("scenario.toml").to_str().unwrap()]);
    assert!(text.contains("looks like Mirai: the pattern mirai_scan matches"), "{text}");
    let (code, text) = ftagent(&["replay", path, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["identical"], &json["began_from"]), (Some(0), &true.into(), &"state".into()), "{text}");
    let (code, text) = ftagent(&["replay", path, "--drop", "udp"]);
    assert!(code != Some(0) && text.contains("replayed alone"), "{text}");
    let bytes = fs::read(&out).unwrap();
    fs::write(&out, &bytes[..bytes.len() / 2]).unwrap();
    let (code, text) = ftagent(&["replay", path]);
    assert!(!matches!(code, Some(0 | 1)) || text.contains("copy it again"), "{code:?} {text}");
}
