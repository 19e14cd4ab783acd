//! What becomes of what is upstream when the daemon is detached, or its configuration changes.

use super::{
    memory::{Memory, There},
    *,
};
use crate::decide::ladder::{Standing, What};

struct Silent;

impl Witness for Silent {
    fn before(&self, _: &Act) -> Result<(), String> {
        Ok(())
    }

    fn after(&self, _: &Act, _: Result<(), &str>) {}
}

/// A provider that keeps what it has, or says nothing but that it is away.
struct Stuck(&'static str, usize, Option<&'static str>);

impl Driver for Stuck {
    fn plane(&self) -> &str {
        self.0
    }

    fn takes(&self, _: &What) -> Result<(), String> {
        Ok(())
    }

    fn reconcile(&mut self, wanted: &[Step], _: &dyn Witness) -> Report {
        let steps = wanted.iter().map(|step| (step.id, Standing::Present)).collect();
        Report { plane: self.0.to_owned(), steps, leaving: self.1, trouble: self.2.map(str::to_owned) }
    }
}

fn hole(id: u32, plane: &str, victim: &str) -> Step {
    let what = What::BlackHole { victim: victim.parse().unwrap() };
    Step { id, plane: plane.to_owned(), what, incident: "i-1".to_owned(), reason: "a test".to_owned() }
}

fn spawn(driver: impl Driver + 'static, steps: &[Step]) -> Plane {
    let wanted: Arc<[Step]> = steps.iter().filter(|step| step.plane == driver.plane()).cloned().collect();
    Plane::spawn_wanting(Box::new(driver), wanted, Arc::new(Silent), Box::new(|_| {})).unwrap()
}

#[test]
fn a_detached_daemon_leaves_nothing_upstream_or_names_it() {
    let steps = [
        hole(1, "rtbh", "203.0.113.1/32"),
        hole(2, "rtbh", "203.0.113.2/32"),
        hole(3, "noc", "203.0.113.3/32"),
        hole(4, "away", "203.0.113.4/32"),
    ];
    let there = There::default();
    let planes = vec![
        spawn(Memory { name: "rtbh".to_owned(), there: Arc::clone(&there) }, &steps),
        spawn(Stuck("noc", 1, Some("it is held for half an hour")), &steps),
        spawn(Stuck("away", 0, Some("is it running")), &steps),
        // Of this one nothing was wanted: that it is away says nothing.
        spawn(Stuck("idle", 0, Some("is it running")), &steps),
    ];
    let left = Planes { planes, generation: None }.clear(Duration::from_secs(2), &steps, &|| {});
    assert_eq!(there.lock().unwrap().len(), 0);
    assert_eq!(left.len(), 2, "{left:?}");
    for part in ["`noc` has 1 still there", "203.0.113.3/32", "half an hour"] {
        assert!(left[0].contains(part), "{part}: {left:?}");
    }
    assert!(left[1].contains("`away` may have") && left[1].contains("203.0.113.4/32"), "{left:?}");
}

#[test]
fn what_no_plane_looks_after_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let parse = |more: &str| {
        let text = format!("[paths]\nstate = \"{}\"\n{more}", state.display());
        Config::parse(&text, "t.toml").unwrap()
    };
    let scrub = |name: &str| {
        format!(
            "[[scrub]]\nname = \"{name}\"\nprovider = \"webhook\"\nendpoint = \"https://noc.example.net\"\n\
             credentials = \"credential:noc\"\nprefixes = [\"203.0.113.0/24\"]\n"
        )
    };
    let bgp = |asn: u32| format!("[bgp]\ndaemon = \"gobgp\"\nasn = {asn}\nown_prefixes = [\"203.0.113.0/24\"]\n");
    fs::create_dir_all(state.join("scrub")).unwrap();
    let entry = |item: &str, phase: &str, ours: bool| {
        format!(
            "{{\"item\":\"{item}\",\"state\":{{\"phase\":\"{phase}\",\"ours\":{ours},\"since\":1,\"attempt\":1}},\
             \"incident\":\"i\",\"reason\":\"r\"}}"
        )
    };
    let entries = [entry("one", "present", true), entry("two", "present", false), entry("three", "taken-back", true)];
    let journal = format!("{{\"version\":1,\"entries\":[{}]}}", entries.join(","));
    fs::write(state.join("scrub/old.json"), journal).unwrap();
    let live = [hole(1, "rtbh", "203.0.113.1/32"), hole(2, "gone", "203.0.113.2/32")];
    // As it was: the provider is named `old`, and routes go through a daemon.
    let whole = parse(&(bgp(64500) + &scrub("old") + &scrub("gone")));
    assert_eq!(orphans(&whole, &live), Vec::<String>::new());
    // The providers were renamed, and the AS is another.
    let told = orphans(&parse(&(bgp(64501) + &scrub("new"))), &live);
    let parts =
        [["`old`", "1 things", "one"], ["`gone`", "203.0.113.2/32", "by hand"], ["64500:", "64501:", "203.0.113.1/32"]];
    assert_eq!(told.len(), parts.len(), "{told:#?}");
    for (told, parts) in told.iter().zip(parts) {
        assert!(parts.iter().all(|part| told.contains(part)), "{parts:?}: {told}");
    }
    // No BGP any more.
    let told = orphans(&parse(&(scrub("old") + &scrub("gone"))), &live);
    assert!(told.len() == 1 && told[0].contains("`rtbh`") && told[0].contains("203.0.113.1/32"), "{told:#?}");
}

#[test]
fn a_provider_does_what_it_takes() {
    let rows = [
        ("\"divert\", \"filter\"", Kind::Scrub),
        ("\"filter\", \"black-hole\"", Kind::Filter),
        ("\"source-black-hole\", \"black-hole\"", Kind::BlackHole),
        ("\"source-black-hole\"", Kind::SourceBlackHole),
    ];
    for (takes, kind) in rows {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "secret = whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let text = format!(
            "[paths]\nstate = \"{}\"\n[[scrub]]\nname = \"noc\"\nprovider = \"webhook\"\nendpoint = \
             \"https://noc.example.net\"\ncredentials = \"{}\"\nprefixes = [\"203.0.113.0/24\"]\ntakes = [{takes}]\n\
             [[ladder.rungs]]\nplane = \"noc\"\ndoes = \"black-hole\"\n",
            dir.path().display(),
            secret.display()
        );
        let config = Config::parse(&text, "t.toml").unwrap();
        let (drivers, told) = open(&config);
        assert_eq!((names(&drivers), told), (vec![("noc".to_owned(), kind)], Vec::new()));
        // The built-in ladder has a rung of this kind for it; one that is written does what it says.
        let built_in = config::Config::default().ladder.policy(&names(&drivers));
        let rungs: Vec<(&str, Kind)> = built_in.rungs.iter().map(|rung| (rung.plane(), rung.kind)).collect();
        assert_eq!(rungs, [("noc", kind)]);
        let policy = config.ladder.policy(&names(&drivers));
        assert_eq!((policy.rungs[0].kind, policy.rungs[0].plane()), (Kind::BlackHole, "noc"));
    }
}
