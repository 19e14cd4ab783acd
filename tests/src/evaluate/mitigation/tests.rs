use ftagent::replay::{Fate, Seen, scenario::Label};
use serde_json::json;

use super::*;
use crate::evaluate::list::RemovalBound;

fn case(name: &str, constant: bool, background: &str) -> Case {
    let kind = Kind::Attack {
        attack: "a".to_owned(),
        vector: "syn_flood".to_owned(),
        expected: vec!["syn_flood".to_owned()],
        intensity: "3x".to_owned(),
        ratio: 3.0,
        background: background.to_owned(),
        window_ms: (1000, 3000),
        real: true,
        constant,
    };
    Case { name: name.to_owned(), kind, text: String::new(), needs: Vec::new(), weight: 0.0 }
}

/// Two seconds of attack and of customers, a packet of each in a millisecond, then quiet; of each
/// some part is dropped, in per mille and from 200 ms on.
fn removal(attack: u64, benign: u64, outside: u64) -> Removal {
    let mut removal = Removal::new((1000, 3000), false);
    let mut see = |ms: u64, label, dropped| {
        removal.see(&Seen {
            time_ns: ms * 1_000_000,
            label: Some(label),
            frame: &[],
            fate: if dropped { Fate::Dropped } else { Fate::Passed },
        });
    };
    for ms in 0..4000_u64 {
        let within = (1000..3000).contains(&ms);
        if within {
            see(ms, Label::Attack, ms >= 1200 && ms % 1000 < attack);
        }
        see(ms, Label::Benign, ms % 1000 < if within { benign } else { outside });
    }
    removal
}

fn report(state: &str) -> Value {
    json!({
        "sources": [
            { "name": "flood", "packets": 1000, "dropped_packets": 990 },
            { "name": "resolver", "packets": 1000, "dropped_packets": 2 },
            { "name": "web", "packets": 1000, "dropped_packets": 1 },
        ],
        "incidents": [{
            "timeline": [{ "at_ms": 1, "what": "opened" }],
            "rules": [{ "match": "udp sport 123", "action": "drop", "state": state }],
        }],
    })
}

#[test]
fn an_attack_holds_with_enough_removed_and_little_lost() {
    // Constant field; removed, lost and lost outside, per mille; what is wrong.
    let rows: [(bool, [u64; 3], &[&str]); 6] = [
        (true, [1000, 1, 0], &[]),
        (true, [900, 0, 0], &["88.2 % removed"]),
        (true, [1000, 2, 0], &["0.20 % of what is benign"]),
        (true, [1000, 0, 2], &["0.20 % lost before or after"]),
        (false, [0, 9, 0], &[]),
        (false, [0, 11, 0], &["1.10 % of what is benign"]),
    ];
    for (constant, [attack, benign, outside], expected) in rows {
        let case = case("a", constant, "web");
        let mitigation = judge(&case, &report("ended"), &removal(attack, benign, outside)).unwrap();
        let problems = &mitigation.problems;
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        assert!(problems.iter().zip(expected).all(|(problem, start)| problem.starts_with(start)), "{problems:?}");
        assert_eq!(mitigation.rules, ["drop udp sport 123 (ended)"]);
    }
    let ordinary = Case { kind: Kind::Benign, ..case("a", true, "web") };
    assert!(judge(&ordinary, &report("ended"), &removal(0, 0, 0)).is_none());
}

#[test]
fn behaviours_say_what_must_be_removed_and_whom_to_spare() {
    let bound = |from, settle_ms, percent| RemovalBound { window_ms: (from, 3000), settle_ms, percent };
    let rows = [
        ("removed", Behaviour { removal: vec![bound(1000, 300, 95.0)], ..Behaviour::default() }, None),
        (
            "too late",
            Behaviour { removal: vec![bound(1000, 190, 95.0)], ..Behaviour::default() },
            Some("90.0 % removed from 1190 to 1290"),
        ),
        (
            "lost",
            Behaviour { lost_percent: Some(0.01), ..Behaviour::default() },
            Some("0.10 % of what is benign lost during"),
        ),
        ("little lost", Behaviour { lost_percent: Some(0.1), ..Behaviour::default() }, None),
        ("spared", Behaviour { spared: vec!["web".to_owned()], ..Behaviour::default() }, None),
        (
            "hurt",
            Behaviour { spared: vec!["resolver".to_owned()], ..Behaviour::default() },
            Some("0.20 % of `resolver`"),
        ),
        ("unknown", Behaviour { spared: vec!["x".to_owned()], ..Behaviour::default() }, Some("no packet of `x`")),
        ("dropped", Behaviour { drops_nothing: true, ..Behaviour::default() }, Some("993 packets dropped")),
        ("left over", Behaviour { rules_end: true, ..Behaviour::default() }, Some("still there at the end: drop udp")),
    ];
    for (name, behaviour, expected) in rows {
        let problems = problems(&behaviour, &report("enforcing"), &removal(1000, 1, 0));
        match expected {
            None => assert_eq!(problems, Vec::<String>::new(), "{name}"),
            Some(start) => assert!(problems.len() == 1 && problems[0].starts_with(start), "{name}: {problems:?}"),
        }
    }
    let ends = Behaviour { rules_end: true, ..Behaviour::default() };
    assert!(problems(&ends, &report("ended"), &removal(0, 0, 0)).is_empty());
}

#[test]
fn the_summary_has_means_and_names_the_worst() {
    let cases = [case("a/3x/web", true, "web"), case("a/3x/game", true, "game"), case("b/3x/web", false, "web")];
    let effects = [(1000, 0), (500, 4), (0, 0)];
    let judged: Vec<_> = cases
        .iter()
        .zip(effects)
        .map(|(case, (attack, benign))| (case, judge(case, &report("ended"), &removal(attack, benign, 0)).unwrap()))
        .collect();
    let summary = Summary::new(judged.iter().map(|(case, mitigation)| (*case, mitigation)));
    let row = &summary.by_kind[CONSTANT];
    assert_eq!((row.of, row.held, row.removed[0].round(), row.lost[0]), (2, 1, 71.0, 0.2));
    assert_eq!((summary.by_kind[RANDOM].of, summary.by_background["web"].of), (1, 2));
    assert_eq!(summary.by_vector["syn_flood"].first_drop.detected, 2);
    let names = |lines: &[Line]| lines.iter().map(|line| line.1.clone()).collect::<Vec<_>>();
    assert_eq!(names(&summary.least_removed), ["a/3x/game", "a/3x/web"]);
    assert_eq!(names(&summary.most_lost), ["a/3x/game"]);
    let mut page = String::new();
    summary.write(&mut page).unwrap();
    assert!(page.contains("| with a constant field | 1 of 2 | "), "{page}");
}
