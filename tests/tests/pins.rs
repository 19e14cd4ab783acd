//! The table of pinned maps is that of the object, and the verifier's work stays in its budget.

use std::{collections::BTreeSet, path::Path};

use ftagent::bpf::{
    LoadError, Loader,
    load::{PINNED, open_map, program},
    pins::EXPECTED,
};
use ftagent_common::abi::{features, programs};
use ftagent_tests::require_root;
use serde::Deserialize;

/// Loads without pins: every map is made as the object describes it.
fn load(replay: bool) -> Result<aya::Ebpf, LoadError> {
    Loader { slot: 0, replay, features: features::ALL, pins: None }.load()
}

#[test]
fn the_table_of_pins_describes_the_object() {
    require_root!();
    let ebpf = load(false).unwrap();
    for expected in &EXPECTED {
        let info = open_map(&ebpf, expected.name).unwrap().info().unwrap();
        assert_eq!(expected.differences(&info), Vec::<String>::new(), "{}", expected.name);
    }
    let described: BTreeSet<_> = EXPECTED.iter().map(|expected| expected.name).collect();
    assert_eq!(described, BTreeSet::from(PINNED), "every pinned map is checked before it is used again");
    // Constants become maps too, by their sections; they are the program's and never pinned.
    let own: BTreeSet<_> = ebpf.maps().map(|(name, _)| name).filter(|name| !name.starts_with('.')).collect();
    assert_eq!(described, own, "every map of the object is pinned");
}

/// What `budget.toml` records.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    verified_instructions: Verified,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verified {
    live: u32,
    replay: u32,
}

#[test]
fn the_verifier_stays_within_its_budget() {
    require_root!();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("budget.toml");
    let budget: Budget = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let Verified { live, replay } = budget.verified_instructions;
    for (name, replays, recorded) in [("live", false, live), ("replay", true, replay)] {
        let mut ebpf = load(replays).unwrap();
        let info = program(&mut ebpf, programs::DATAPATH).unwrap().info().unwrap();
        let (verified, bytes) = (info.verified_instruction_count().unwrap(), info.size_translated().unwrap());
        eprintln!("{name}: {verified} instructions verified (recorded {recorded}), {bytes} bytes of program");
        let most = u64::from(recorded) * 11 / 10;
        assert!(
            u64::from(verified) <= most,
            "{name}: the verifier processed {verified} instructions, more than a tenth above the recorded {recorded}. \
             Kernels give up at 1000000, and the work grows with every branch. If the growth is wanted, write \
             `{name} = {verified}` under [verified_instructions] in {} and say why in the commit.",
            path.display()
        );
    }
}
