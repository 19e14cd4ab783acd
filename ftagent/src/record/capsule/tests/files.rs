//! The file: written, read, replayed; and what is refused.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;
use crate::{
    decide::{Incident, frames::HOST},
    record::{
        capsule::{
            container::{self, CapsuleError, is_capsule},
            export::{ExportError, Options, export},
            journal::Chronicler,
            manifest::Manifest,
            member as name,
            reader::{Journey, Step},
            state,
        },
        recorder::{Companion as _, lives},
    },
    replay::capsule::{Beginning, CapsuleReport, replay},
};

/// An incident as the recorder tells of it.
struct Told {
    dir: TempDir,
    before: Vec<Arc<Fact>>,
    after: Vec<Fact>,
    incident: Incident,
}

impl Told {
    fn of(vector: Vector) -> Self {
        let mut world = World::warmed();
        let mut before = vec![Arc::new(world.image(false))];
        before.extend((0..25).map(|_| Arc::new(world.tick(None))));
        let mut opened = None;
        for _ in 0..20 {
            let fact = world.tick(Some(vector));
            let Fact::Tick(tick) = &fact else { unreachable!("a tick is one") };
            opened = opened.or_else(|| tick.incidents.first().cloned());
            before.push(Arc::new(fact));
            if opened.is_some() {
                break;
            }
        }
        let after = (0..220).map(|number| world.tick((number < 60).then_some(vector))).collect();
        let incident = world.core().incidents().next_back().unwrap().clone();
        assert!(!incident.is_open() && Some(&incident.id) == opened.map(|incident| incident.id).as_ref());
        Self { dir: tempfile::tempdir().unwrap(), before, after, incident }
    }

    fn record(&self, most: u64) {
        let mut chronicler = Chronicler::new(most, "[log]\nlevel = \"info\"\n".to_owned());
        chronicler.begin(self.dir.path(), &self.incident, &self.before);
        self.after.iter().for_each(|fact| chronicler.take(fact));
        chronicler.finish(&self.incident).unwrap();
    }

    fn path(&self, of: &str) -> PathBuf {
        self.dir.path().join(of)
    }

    fn export(&self, anonymise: bool) -> (PathBuf, Manifest) {
        let out = self.path(if anonymise { "nobody.ftcapsule" } else { "incident.ftcapsule" });
        let created_unix_ms = 1_800_000_000_123;
        let manifest = export(self.dir.path(), &out, &Options { anonymise, life: None, created_unix_ms });
        (out, manifest.unwrap())
    }
}

fn replayed(path: &Path) -> CapsuleReport {
    replay(path).unwrap()
}

#[test]
fn an_incident_becomes_one_file_that_replays_to_the_same_decisions() {
    let told = Told::of(Vector::NtpAmplification);
    told.record(64 << 20);
    for of in [name::TICKS, name::STATE, name::INCIDENT, name::CONFIG, name::BASELINE] {
        assert_eq!(fs::metadata(told.path(of)).unwrap().permissions().mode() & 0o777, 0o600, "{of}");
    }
    let (path, manifest) = told.export(false);
    assert!(is_capsule(&path) && !is_capsule(&told.path(name::TICKS)));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(manifest.incident.as_ref(), Some(&told.incident.id));
    let names: Vec<_> = manifest.members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, [name::INCIDENT, name::CONFIG, name::BASELINE, name::DECISIONS, name::STATE, name::TICKS]);
    assert_eq!(manifest.notes, ["there is no capture.pcapng.zst", "there is no indicators.json"]);

    let report = replayed(&path);
    let facts = told.before.len() - 1 + told.after.len();
    assert_eq!((report.identical, report.began_from), (true, Beginning::State), "{:?}", report.outcome.differences);
    assert_eq!(report.outcome.ticks, facts as u64);
    let text = report.to_text();
    assert!(text.contains(&format!("{facts} ticks, {} decisions: identical", report.outcome.decisions)), "{text}");

    // The same twice, and under another name: by how it begins.
    let again = told.path("again.tar");
    fs::copy(&path, &again).unwrap();
    assert!(is_capsule(&again) && replayed(&again).identical);
    let error = export(told.dir.path(), &path, &Options::default()).unwrap_err();
    assert!(matches!(error, ExportError::Exists { .. }), "{error}");
}

#[test]
fn what_was_decided_stands_in_it_as_lines_of_json() {
    let told = Told::of(Vector::SynFlood);
    told.record(64 << 20);
    let (path, _) = told.export(false);
    let mut capsule = container::read(&path).unwrap();
    let text = std::io::read_to_string(capsule.large(name::DECISIONS).unwrap()).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let opened = lines.iter().find(|line| line["events"][0]["event"] == "opened").unwrap();
    assert_eq!(opened["events"][0]["id"], told.incident.id.as_str());
    assert_eq!(opened["incidents"][0]["vector"], "syn_flood");
    let rule = &opened["wanted"][0]["rule"];
    assert_eq!((&rule["action"], &rule["match"]["family"]), (&"count".into(), &"ip4".into()));
    assert!(lines.iter().any(|line| line["wanted"][0]["rule"]["action"] == "drop"));
    assert!(lines.last().unwrap()["events"].to_string().contains("closed"));
    assert_eq!(capsule.small(name::CONFIG), Some(&b"[log]\nlevel = \"info\"\n"[..]));
}

#[test]
fn a_daemon_that_died_leaves_what_can_be_exported() {
    let told = Told::of(Vector::SynFlood);
    told.record(64 << 20);
    let ticks = told.path(name::TICKS);
    let bytes = fs::read(&ticks).unwrap();
    fs::write(&ticks, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let (path, manifest) = told.export(false);
    assert!(manifest.notes.iter().any(|note| note.contains("no end")), "{:?}", manifest.notes);
    let report = replayed(&path);
    assert!(report.identical && report.outcome.ticks > 30, "{report:?}");
    assert!(report.to_text().contains("up to its last whole frame"), "{}", report.to_text());

    fs::remove_file(&ticks).unwrap();
    let error = export(told.dir.path(), &told.path("x"), &Options::default()).unwrap_err();
    assert!(matches!(error, ExportError::NoJournal { .. }), "{error}");
}

#[test]
fn what_was_before_a_restart_replays_as_well_as_what_came_after_it() {
    let told = Told::of(Vector::SynFlood);
    let mut chronicler = Chronicler::new(64 << 20, "first = 1\n".to_owned());
    chronicler.begin(told.dir.path(), &told.incident, &told.before);
    told.after[..90].iter().for_each(|fact| chronicler.take(fact));
    // The daemon is killed: nothing of it is finished.
    drop(chronicler);
    while !told.path(name::BASELINE).exists() {
        std::thread::yield_now();
    }
    fs::write(told.path(name::CAPTURE), "packets of both").unwrap();
    assert_eq!(lives::set_aside(told.dir.path()).unwrap(), Some(1));
    let mut world = World::warmed();
    let before = vec![Arc::new(world.image(true)), Arc::new(world.tick(None))];
    let mut chronicler = Chronicler::new(64 << 20, "second = 2\n".to_owned());
    chronicler.begin(told.dir.path(), &told.incident, &before);
    (0..10).for_each(|_| chronicler.take(&world.tick(None)));
    chronicler.finish(&told.incident).unwrap();

    let made = |life: Option<u32>, out: &str| {
        let options = Options { life, ..Options::default() };
        let manifest = export(told.dir.path(), &told.path(out), &options).unwrap();
        let mut capsule = container::read(&told.path(out)).unwrap();
        let packets = std::io::read_to_string(capsule.large(name::TICKS).unwrap()).is_err();
        let config = String::from_utf8(capsule.small(name::CONFIG).unwrap().to_vec()).unwrap();
        assert!(packets && manifest.members.iter().any(|member| member.name == name::CAPTURE));
        (manifest.notes.join("\n"), config, replayed(&told.path(out)))
    };
    let (notes, config, report) = made(Some(1), "first.ftcapsule");
    assert!(report.identical && report.outcome.ticks >= (told.before.len() - 1 + 80) as u64, "{report:?}");
    assert!(notes.contains("life 1") && notes.contains("no end") && config == "first = 1\n", "{notes}");
    let (notes, config, report) = made(None, "second.ftcapsule");
    assert!(report.identical && report.outcome.ticks == 11, "{report:?}");
    assert!(notes.contains("--life 1") && config == "second = 2\n", "{notes}");
    let options = Options { life: Some(2), ..Options::default() };
    let error = export(told.dir.path(), &told.path("third"), &options).unwrap_err();
    assert!(error.to_string().contains("there are 1"), "{error}");
}

#[test]
fn trouble_with_the_disk_is_said_and_ends_nothing() {
    let told = Told::of(Vector::SynFlood);
    let mut chronicler = Chronicler::new(1 << 20, String::new());
    let nowhere = told.path("not/there");
    chronicler.begin(&nowhere, &told.incident, &told.before);
    told.after.iter().for_each(|fact| chronicler.take(fact));
    chronicler.finish(&told.incident).unwrap_err();
    // No image of the core: nothing to begin from.
    chronicler.begin(told.dir.path(), &told.incident, &told.before[1..]);
    assert!(chronicler.finish(&told.incident).unwrap_err().to_string().contains("image"));
    chronicler.begin(told.dir.path(), &told.incident, &told.before);
    chronicler.finish(&told.incident).unwrap();
}

#[test]
fn another_version_begins_from_the_baseline_and_says_that_it_may_differ() {
    const LATER: u32 = crate::decide::STATE_VERSION + 1;
    let told = Told::of(Vector::NtpAmplification);
    told.record(64 << 20);
    let later = serde_json::json!({"format": "ftagent.state", "version": LATER, "core": {"whatever": true}});
    fs::write(told.path(name::STATE), zstd::encode_all(state::pack(&later).unwrap().as_slice(), 1).unwrap()).unwrap();
    let (path, _) = told.export(false);
    let report = replayed(&path);
    assert_eq!(report.began_from, Beginning::Baseline);
    let text = report.to_text();
    assert!(text.contains(&format!("of version {LATER}")) && text.contains("differences are to be expected"), "{text}");
    let opened = |lines: &[String]| lines.iter().any(|line| line.contains("\"opened\""));
    let differences = &report.outcome.differences;
    assert!(!report.identical && differences.iter().any(|of| opened(&of.decided) || opened(&of.recorded)), "{text}");
    assert!(text.contains("  then  ") && text.contains("  now   "), "{text}");
}

#[test]
fn nobody_is_recognised_in_an_anonymised_capsule_and_it_replays_to_its_own_decisions() {
    for vector in [Vector::SynFlood, Vector::NtpAmplification] {
        let told = Told::of(vector);
        told.record(64 << 20);
        fs::write(told.path(name::CAPTURE), "addresses").unwrap();
        let (path, manifest) = told.export(true);
        let done = manifest.anonymised.as_ref().unwrap();
        assert_eq!(done.incidents_then, [vector.as_str()]);
        assert_eq!(done.incidents_now, [vector.as_str()], "it is the same attack to whoever looks at headers");
        let names: Vec<_> = manifest.members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, [name::INCIDENT, name::BASELINE, name::DECISIONS, name::STATE, name::TICKS]);
        let report = replayed(&path);
        assert!(report.identical && report.anonymised && report.outcome.decisions > 3, "{report:?}");

        let mut capsule = container::read(&path).unwrap();
        let mut bytes = [capsule.small(name::INCIDENT), capsule.small(name::BASELINE)].map(Option::unwrap).concat();
        std::io::copy(&mut capsule.large(name::DECISIONS).unwrap(), &mut bytes).unwrap();
        for of in [name::STATE, name::TICKS] {
            bytes.extend(zstd::decode_all(capsule.large(of).unwrap()).unwrap());
        }
        let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        for address in (1..40).map(member).chain([HOST]) {
            let address = IpAddr::from(address);
            let IpAddr::V4(v4) = address else { unreachable!("they are IPv4") };
            assert!(!holds(&v4.octets()) && !holds(address.to_string().as_bytes()), "{address}");
            assert!(!holds(&state::pack(&address).unwrap()), "{address}");
        }
        assert!(!holds(b"GET /") && !holds(b"Host: a"));
        assert!(holds(b"tcp_"), "there is something to look at");
    }
}

#[test]
fn anonymised_packets_are_those_of_before_with_other_addresses() {
    let told = Told::of(Vector::SynFlood);
    told.record(64 << 20);
    let (path, _) = told.export(true);
    let mut capsule = container::read(&path).unwrap();
    let mut journey = Journey::new(capsule.large(name::TICKS).unwrap()).unwrap();
    let mut then = told.before.iter().map(Arc::as_ref).chain(&told.after);
    let mut sources = std::collections::BTreeMap::new();
    while let Some(step) = journey.step().unwrap() {
        let Step::Tick(now) = step else { continue };
        let Some(Fact::Tick(then)) = then.by_ref().find(|fact| matches!(fact, Fact::Tick(_))) else {
            panic!("too many")
        };
        assert_eq!((then.now, &then.counts, then.samples.len()), (now.now, &now.counts, now.samples.len()));
        for (then, now) in then.samples.iter().zip(&now.samples) {
            let [then, now] = [then, now].map(Packet::of_sample);
            let seen = |p: &Packet| (p.time_ns, p.class, p.proto, p.sport, p.dport, p.flags, p.seq, p.wire, p.payload);
            assert_eq!(seen(&then), seen(&now));
            assert_eq!(now.head_len, 0);
            let known = *sources.entry(then.src().unwrap()).or_insert(now.src().unwrap());
            assert_eq!(Some(known), now.src(), "one address is one address");
        }
    }
    let others: std::collections::BTreeSet<_> = sources.values().collect();
    assert_eq!(others.len(), sources.len(), "two are two");
}

/// Writes an archive of entries: name, kind, size that the header claims, content.
fn archive(entries: &[(&[u8], EntryType, u64, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, kind, size, data) in entries {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_size(*size);
        header.set_entry_type(*kind);
        header.set_mode(0o600);
        header.set_cksum();
        if *kind == EntryType::Symlink {
            header.set_link_name("/etc/shadow").unwrap();
            header.set_cksum();
        }
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(512), 0);
        tar.get_mut().extend(header.as_bytes());
        tar.get_mut().extend(padded);
    }
    tar.into_inner().unwrap()
}

fn refused(dir: &Path, bytes: &[u8]) -> String {
    let path = dir.join("x.ftcapsule");
    fs::write(&path, bytes).unwrap();
    match container::read(&path).unwrap_err() {
        CapsuleError::Refused { what, .. } => what,
        error => panic!("{error}"),
    }
}

#[test]
fn what_tricks_there_are_with_archives_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = serde_json::to_vec(&Manifest::new(None, 0)).unwrap();
    let listed = {
        let mut manifest = Manifest::new(None, 0);
        manifest.members.push(crate::record::capsule::manifest::Member {
            name: name::INCIDENT.to_owned(),
            bytes: 2,
            sha256: "0".repeat(64),
        });
        serde_json::to_vec(&manifest).unwrap()
    };
    let future = String::from_utf8(manifest.clone()).unwrap().replace("capsule/1", "capsule/2").into_bytes();
    let file = EntryType::Regular;
    type Entry<'a> = (&'a [u8], EntryType, u64, &'a [u8]);
    fn whole<'a>(name: &'a str, data: &'a [u8]) -> Entry<'a> {
        (name.as_bytes(), EntryType::Regular, data.len() as u64, data)
    }
    let first = whole(name::MANIFEST, &manifest);
    let cases: Vec<(&str, Vec<Entry<'_>>, &str)> = vec![
        ("nothing", vec![], "empty"),
        ("no manifest", vec![whole(name::INCIDENT, b"{}")], "first member"),
        ("a manifest later", vec![first, whole(name::MANIFEST, b"{}")], "fixed names"),
        ("no JSON", vec![whole(name::MANIFEST, b"{")], "no JSON"),
        ("the future", vec![whole(name::MANIFEST, &future)], "from the future"),
        ("absolute", vec![first, whole("/etc/passwd", b"x")], "fixed names"),
        ("up and away", vec![first, whole("../incident.json", b"x")], "fixed names"),
        ("a detour", vec![first, whole("./incident.json", b"x")], "fixed names"),
        ("another name", vec![first, whole("readme", b"x")], "fixed names"),
        ("a symlink", vec![first, (b"state.mp.zst", EntryType::Symlink, 0, b"")], "no plain file"),
        ("a hard link", vec![first, (b"state.mp.zst", EntryType::Link, 0, b"")], "no plain file"),
        ("a directory", vec![first, (b"state.mp.zst", EntryType::Directory, 0, b"")], "no plain file"),
        ("a device", vec![first, (b"state.mp.zst", EntryType::Char, 0, b"")], "no plain file"),
        ("an extended header", vec![first, (b"pax", EntryType::XHeader, 10, b"10 path=a\n")], "no plain file"),
        ("a long name", vec![first, (b"././@LongLink", EntryType::GNULongName, 3, b"abc")], "no plain file"),
        ("twice", vec![first, whole(name::INCIDENT, b"{}"), whole(name::INCIDENT, b"{}")], "two members"),
        ("too large", vec![first, (b"incident.json", file, 1 << 40, b"")], "larger than"),
        ("a huge manifest", vec![(b"manifest.json", file, 2 << 20, b"")], "larger than"),
        ("cut short", vec![first, (b"incident.json", file, 5000, b"{}")], "cut short"),
        ("added", vec![first, whole(name::INCIDENT, b"{}")], "was added"),
        ("missing", vec![whole(name::MANIFEST, &listed)], "missing"),
        ("changed", vec![whole(name::MANIFEST, &listed), whole(name::INCIDENT, b"{}")], "was changed"),
    ];
    for (case, entries, expected) in cases {
        let what = refused(dir.path(), &archive(&entries));
        assert!(what.contains(expected), "{case}: {what}");
    }
    let what = refused(dir.path(), &[0x55; 2000]);
    assert!(what.contains("no whole capsule"), "{what}");
    let missing = container::read(&dir.path().join("nothing.ftcapsule")).unwrap_err();
    assert!(matches!(missing, CapsuleError::Read { .. }));
}

#[test]
fn a_capsule_that_is_cut_anywhere_or_has_any_byte_changed_is_refused() {
    let mut world = World::new();
    let mut chronicler = Chronicler::new(1 << 20, String::new());
    let told = Told::of(Vector::SynFlood);
    let before = vec![Arc::new(world.image(false)), Arc::new(world.tick(None))];
    chronicler.begin(told.dir.path(), &told.incident, &before);
    chronicler.finish(&told.incident).unwrap();
    let (path, manifest) = told.export(false);
    let bytes = fs::read(&path).unwrap();
    let end = bytes.len() - 1024;
    println!("{} bytes, {} members", bytes.len(), manifest.members.len());
    for length in (0..end).step_by(61).chain(end - 600..end) {
        let what = refused(told.dir.path(), &bytes[..length]);
        let said = ["cut short", "no whole capsule", "empty", "missing"];
        assert!(said.iter().any(|expected| what.contains(expected)), "{length}: {what}");
    }
    // What an archive has between its members is padding, and what a header says of owners is nobody's.
    let mut unnoticed = 0;
    for at in (0..end).step_by(97) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x20;
        fs::write(told.path("x.ftcapsule"), &changed).unwrap();
        if let Ok(capsule) = container::read(&told.path("x.ftcapsule")) {
            assert_eq!(capsule.manifest.members, manifest.members, "byte {at}");
            assert!(replayed(&told.path("x.ftcapsule")).identical, "byte {at}");
            unnoticed += 1;
        }
    }
    assert!(unnoticed * 7 < end / 97, "{unnoticed}");
}

#[test]
fn a_core_that_nobody_would_write_ends_nothing_but_its_replay() {
    let told = Told::of(Vector::SynFlood);
    told.record(64 << 20);
    let core = World::warmed().core().clone();
    let mut raw = zstd::decode_all(state::encode(&core).unwrap().as_slice()).unwrap();
    // What a pool was offered: one more wraps to nothing.
    let at = raw.windows(8).position(|window| window == b"\xa7offered").unwrap() + 8;
    assert_eq!(raw[at], 0xcd, "a number of two bytes");
    raw.splice(at..at + 3, [&[0xcf][..], &[0xff; 8]].concat());
    fs::write(told.path(name::STATE), zstd::encode_all(raw.as_slice(), 1).unwrap()).unwrap();
    let (path, _) = told.export(false);
    match replay(&path) {
        Err(error) => assert!(error.to_string().contains("no core would"), "{error}"),
        Ok(report) => assert!(report.outcome.ticks > 0),
    }
}
