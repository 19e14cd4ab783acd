//! A few scenarios of the evaluation, whenever the tests run: `tests/scenarios/ci.toml` has them.
//!
//! They need root and the captures; without, the tests say so and end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;

use ftagent_tests::{
    evaluate::{
        compose::{Case, Kind},
        generate,
        list::List,
        run::{all_cases, missing, run_cases},
    },
    sandbox::skip,
};

/// Replays the named cases and returns what is wrong with each; with what is removed, where that is asked for.
fn wrong(names: &[String], removal: bool) -> Option<Vec<String>> {
    if let Some(missing) = missing() {
        skip(&format!("{} scenarios", names.len()), missing);
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let all = all_cases(&List::load().unwrap(), dir.path()).unwrap();
    let find = |name: &String| all.iter().find(|case| case.name == *name).unwrap_or_else(|| panic!("no case {name}"));
    let cases: Vec<Case> = names.iter().map(|name| find(name).clone()).collect();
    let outcomes = run_cases(&cases, dir.path(), 2, &|_, _| ()).unwrap();
    let told = outcomes.iter().map(|outcome| {
        let removed = outcome.mitigation.iter().filter(|_| removal).flat_map(|mitigation| &mitigation.problems);
        (&outcome.name, outcome.problems.iter().chain(removed).cloned().collect::<Vec<_>>())
    });
    let failed = told.filter(|(_, problems)| !problems.is_empty());
    Some(failed.map(|(name, problems)| format!("{name}: {}", problems.join("; "))).collect())
}

#[test]
fn nothing_ordinary_opens_an_incident() {
    let list = List::load().unwrap();
    if let Some(wrong) = wrong(&list.ci.ordinary, false) {
        assert_eq!(wrong, Vec::<String>::new());
    }
}

#[test]
fn what_is_expected_to_hold_holds() {
    let list = List::load().unwrap();
    if let Some(wrong) = wrong(&list.ci.held, false) {
        assert_eq!(wrong, Vec::<String>::new());
    }
}

#[test]
fn attacks_are_removed_and_nobody_else() {
    let list = List::load().unwrap();
    if let Some(wrong) = wrong(&list.ci.removed, true) {
        assert_eq!(wrong, Vec::<String>::new());
    }
}

/// The list says what it means: names are unique, vectors and captures exist, shares add up, and a
/// known shortcoming is one of a scenario that there is.
#[test]
fn the_list_is_sound() {
    let list = List::load().unwrap();
    let generated: BTreeSet<String> = generate::names().into_iter().collect();
    let known_vector = |name: &String| {
        assert!(ftagent::decide::Vector::from_name(name).is_some(), "there is no vector {name}");
    };
    for attack in &list.matrix.attack {
        attack.expected().iter().for_each(known_vector);
        known_vector(&attack.vector);
        let parts = attack.parts();
        assert!((parts.iter().map(|part| part.share).sum::<f64>() - 1.0).abs() < 1e-9, "{}", attack.name);
        for name in parts.iter().filter_map(|part| part.generated.as_ref()) {
            assert!(generated.contains(name), "{} needs {name}", attack.name);
        }
    }
    list.behaviours.iter().flat_map(|behaviour| &behaviour.vectors).for_each(known_vector);
    if let Some(missing) = missing() {
        return skip("the_list_is_sound: what it makes of captures", missing);
    }
    let dir = tempfile::tempdir().unwrap();
    let cases = all_cases(&list, dir.path()).unwrap();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "names are unique");
    let real = |case: &&Case| matches!(&case.kind, Kind::Attack { real: true, .. });
    assert_eq!(cases.iter().filter(real).count(), 23 * 9, "every attack capture, three by three");
    for case in &cases {
        ftagent::replay::scenario::Scenario::parse(&case.text, dir.path()).unwrap();
        case.needs.iter().for_each(|name| assert!(generated.contains(name), "{} needs {name}", case.name));
    }
    let simulated: Vec<_> = ftagent_tests::simulate::ALL.iter().map(|(id, name, _)| format!("{id}/{name}")).collect();
    for key in list.known.keys() {
        // What is removed is judged apart from what is detected.
        let prefix = key.trim_start_matches("removal/").trim_end_matches('*');
        let mut all = names.iter().copied().chain(simulated.iter().map(String::as_str));
        assert!(all.any(|name| name.starts_with(prefix)), "known.toml: there is no scenario {key}");
    }
}
