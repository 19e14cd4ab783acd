//! What becomes of what is upstream when the daemon is detached, or its configuration changes.

use std::{fs, path::PathBuf};

use super::{
    memory::{Memory, There},
    *,
};
use crate::{
    decide::ladder::{Standing, What},
    record::{
        audit::{self, ActorKind, append_offline, read},
        routes::ORPHANS,
    },
};

struct Silent;

impl Witness for Silent {
    fn before(&self, _: &Act) -> Result<(), String> {
        Ok(())
    }

    fn after(&self, _: &Act, _: Result<(), &str>) {}
}

/// Trouble of a BGP daemon that shows its routes.
const UNHEARD: &str = "none of its sessions is up";

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
        let trouble = self.2.map(str::to_owned);
        let unseen = trouble.is_some() && self.2 != Some(UNHEARD);
        Report { plane: self.0.to_owned(), steps, leaving: self.1, trouble, unseen }
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
        hole(5, "unheard", "203.0.113.5/32"),
    ];
    let there = There::default();
    let planes = vec![
        spawn(Memory { name: "rtbh".to_owned(), there: Arc::clone(&there) }, &steps),
        spawn(Stuck("noc", 1, Some("it is held for half an hour")), &steps),
        spawn(Stuck("away", 0, Some("is it running")), &steps),
        // What it has is seen, and is nothing.
        spawn(Stuck("unheard", 0, Some(UNHEARD)), &steps),
        // Of this one nothing was wanted: that it is away says nothing.
        spawn(Stuck("idle", 0, Some("is it running")), &steps),
    ];
    let state = tempfile::tempdir().unwrap();
    let left = Planes { planes, ..Planes::default() }.clear(state.path(), Duration::from_secs(2), &steps, &|| {});
    assert_eq!(there.lock().unwrap().len(), 0);
    assert_eq!(left.len(), 2, "{left:?}");
    for part in ["`noc` has 1 still there", "203.0.113.3/32", "half an hour"] {
        assert!(left[0].contains(part), "{part}: {left:?}");
    }
    assert!(left[1].contains("`away` may have") && left[1].contains("203.0.113.4/32"), "{left:?}");
}

/// A state directory, and configurations with it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn parse(&self, more: &str) -> Config {
        fs::create_dir_all(self.state()).unwrap();
        let text = format!("[paths]\nstate = {:?}\n[audit]\nappend_only = false\n{more}", self.state());
        Config::parse(&text, "t.toml").unwrap()
    }
}

fn bgp(asn: u32) -> String {
    format!("[bgp]\ndaemon = \"gobgp\"\nasn = {asn}\nown_prefixes = [\"203.0.113.0/24\"]\n")
}

#[test]
fn what_was_not_seen_to_be_gone_is_named_by_every_detach() {
    let place = Place::new();
    let config = place.parse(&bgp(64500));
    let steps = [hole(1, "rtbh", "203.0.113.1/32"), hole(2, "noc", "203.0.113.2/32")];
    let there = There::default();
    // A life of the daemon, or a detach: what it finds, what it wants at first and then, and what is left when it
    // takes everything back.
    let life = |away: bool, first: &[Step], then: &[Step]| {
        let mut planes = Planes { routes: Routes::open(&config, &[]).routes, ..Planes::default() };
        planes.planes.push(match away {
            true => spawn(Stuck("rtbh", 0, Some("is it running")), &[]),
            false => spawn(Memory { name: "rtbh".to_owned(), there: Arc::clone(&there) }, &[]),
        });
        planes.follow((first, 1));
        planes.follow((then, 2));
        planes.clear(&place.state(), Duration::from_millis(200), &[], &|| {})
    };
    assert_eq!(life(true, &[], &[]), [""; 0], "it is away, and never was asked");
    // Taken back by an operator, or for a probe, while the daemon beyond is away.
    for _ in 0..3 {
        let left = life(true, &steps, &[]);
        assert!(
            left.len() == 1 && left[0].contains("`rtbh` may have") && left[0].contains("203.0.113.1/32"),
            "{left:?}"
        );
    }
    assert_eq!(life(true, &[], &[]).len(), 1, "of an earlier life");
    // It answers, and has nothing of ours.
    assert_eq!(life(false, &[], &[]), [""; 0]);
    assert_eq!(life(true, &[], &[]), [""; 0]);
    assert_eq!(fs::read_dir(place.state()).unwrap().count(), 0);
}

#[test]
fn a_route_is_remembered_until_its_plane_has_looked() {
    let place = Place::new();
    let config = place.parse(&bgp(64500));
    let both = [hole(1, "rtbh", "203.0.113.1/32"), hole(2, "rtbh", "203.0.113.2/32")];
    let mut planes = Planes { routes: Routes::open(&config, &[]).routes, ..Planes::default() };
    planes.planes.push(spawn(Memory { name: "rtbh".to_owned(), there: There::default() }, &[]));
    planes.follow((&both, 1));
    assert_eq!(planes.routes().unwrap().len(), 2);
    planes.follow((&both[..1], 2));
    let until = Instant::now() + Duration::from_secs(60);
    while planes.routes().unwrap().len() > 1 {
        assert!(Instant::now() < until, "it is there still");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(planes.routes().unwrap()[0].step, both[0]);
    planes.stop();
    // A daemon that is away for months: the latest are remembered.
    let mut routes = Routes::open(&config, &[]).routes;
    let many: Vec<Step> = (0..2000).map(|i| hole(i, "rtbh", &format!("203.0.{}.{}/32", i / 250, i % 250))).collect();
    routes.ask(&many);
    assert_eq!((routes.steps().count(), routes.steps().last()), (1024, many.last()));
    // Where there is no BGP, nothing is to be written down.
    assert_eq!(Planes::default().routes(), None);
}

#[test]
fn what_an_operator_takes_back_is_in_the_log_as_his() {
    let place = Place::new();
    let config = place.parse("");
    let (state, operator) = (place.state(), Actor::operator(1000, "ann"));
    let ends = ["daemon.start", "daemon.stop"].map(|action| Entry::new(action, "1"));
    append_offline(&state, &config.audit, ends.into()).unwrap();
    // More acts than the daemon has lines behind its end.
    let steps: Vec<Step> = (0..150).map(|i| hole(i, "rtbh", &format!("203.0.113.{i}/32"))).collect();
    let there = There::default();
    there.lock().unwrap().extend(steps.iter().cloned());
    let log = OfflineLog::open(&state, &config.audit).unwrap().map(Arc::new);
    let witness = Offline { log: log.clone(), actor: operator };
    let driver = Box::new(Memory { name: "rtbh".to_owned(), there: Arc::clone(&there) });
    let plane = Plane::spawn(driver, Arc::new(witness), Box::new(|_| {})).unwrap();
    let left = Planes { planes: vec![plane], ..Planes::default() }.clear(&state, CLEARING * 6, &steps, &|| {});
    assert_eq!((left.len(), there.lock().unwrap().len()), (0, 0));
    log.unwrap().sign().unwrap();
    let dir = audit::dir(&state);
    assert!(read::without_end(&dir).unwrap().is_none(), "the life before wrote its end");
    let lines = read::Reader::new(&dir, read::Wanted::default()).next(usize::MAX).unwrap();
    let acts = lines.iter().filter(|(_, line)| line.action == "rtbh.withdraw");
    let kinds: Vec<ActorKind> = acts.filter_map(|(_, line)| line.actor.as_ref()).map(|actor| actor.kind).collect();
    assert_eq!(kinds, [ActorKind::Operator; 300]);
}

#[test]
fn what_no_plane_looks_after_is_named() {
    let place = Place::new();
    let (state, parse) = (place.state(), |more: &str| place.parse(more));
    let scrub = |name: &str| {
        format!(
            "[[scrub]]\nname = \"{name}\"\nprovider = \"webhook\"\nendpoint = \"https://noc.example.net\"\n\
             credentials = \"credential:noc\"\nprefixes = [\"203.0.113.0/24\"]\n"
        )
    };
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
    let named = |live: &[Step], text: &str| {
        let config = parse(text);
        let Found { lost, told, .. } = Routes::open(&config, live);
        assert_eq!(told, [""; 0]);
        orphans(&config, live, &lost)
    };
    // As it was: the provider is named `old`, and routes go through a daemon.
    assert_eq!(named(&live, &(bgp(64500) + &scrub("old") + &scrub("gone"))), [""; 0]);
    // The providers were renamed, and the AS is another. It is said at every start, until somebody has done something.
    for _ in 0..2 {
        let told = named(&live, &(bgp(64501) + &scrub("new")));
        let parts = [
            ["`old`", "1 things", "one"],
            ["`gone`", "203.0.113.2/32", "by hand"],
            ["64500:", "64501:", "203.0.113.1/32"],
        ];
        assert_eq!(told.len(), parts.len(), "{told:#?}");
        for (told, parts) in told.iter().zip(parts) {
            assert!(parts.iter().all(|part| told.contains(part)), "{parts:?}: {told}");
        }
    }
    // No BGP any more, and what the ladder had is long forgotten.
    let told = named(&[], &scrub("old"));
    assert!(told.len() == 1, "{told:#?}");
    assert!(["64500:", "203.0.113.1/32", "no [bgp]", ORPHANS].iter().all(|part| told[0].contains(part)), "{told:#?}");
    // It is configured as it was: a plane looks after it.
    let of = |asn: u32| Routes::open(&parse(&(bgp(asn) + &scrub("old"))), &[]);
    let Found { routes, lost, .. } = of(64500);
    assert_eq!((routes.steps().collect::<Vec<_>>(), lost.len()), (vec![&live[0]], 0));
    // Or somebody has withdrawn it by hand.
    assert_eq!(of(64501).lost.len(), 1);
    fs::remove_file(state.join(ORPHANS)).unwrap();
    assert_eq!((of(64501).lost.len(), of(64500).routes.steps().count()), (0, 0));
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
        // A journal that is damaged is told, once, and nothing is left out.
        fs::create_dir_all(dir.path().join("scrub")).unwrap();
        fs::write(dir.path().join("scrub/noc.json"), "damaged").unwrap();
        for told_now in [1, 0] {
            let (drivers, told) = open(&config);
            assert_eq!((drivers.len(), told.len()), (1, told_now), "{told:?}");
            assert!(told.iter().all(|why| why.contains("was set aside")), "{told:?}");
        }
    }
}
