//! Providers as rungs: a flood fills the uplink, the provider is asked by signed requests, does what it says before the
//! uplink, and is asked to stop; whatever happens to the agent in between, nothing stays on.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ftagent_tests::{
    daemon,
    edge::Enforcer,
    peers,
    provider::{
        Fault, Service, StandIn, When,
        cloudflare::{Bgp, Cloudflare},
        webhook::Webhook,
    },
    require_root,
    sandbox::Sandbox,
};

use super::edge::Edge;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";
const TOKEN: &str = "tok_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789";
/// What is diverted: the space of the uplink.
const SPACE: &str = "10.77.0.0/24";
/// What a scrubbing centre takes out of traffic that it is led: the flood.
const SCRUBBED: &str = "ip daddr 10.77.0.0/24 udp sport 53 counter drop";

/// A provider, and what of it the rung is about.
struct Provider<S> {
    service: S,
    /// The `[[scrub]]`, but for its name and endpoint.
    section: String,
    /// What stands behind the stand-in's address.
    below: &'static str,
    credentials: String,
    /// How long it takes, and how long it stays.
    times: &'static str,
    /// Whether it diverts.
    is_on: fn(&mut S) -> bool,
}

fn webhook() -> Provider<Webhook> {
    Provider {
        service: Webhook::new(SECRET),
        section: "provider = \"webhook\"".to_owned(),
        below: "/ddos",
        credentials: format!("secret = {SECRET}\n"),
        // Short, so that a test sees them end.
        times: "activation = \"1s\"\nhold = \"3s\"\nlongest_hold = \"6s\"\n",
        is_on: |webhook| !webhook.things.is_empty(),
    }
}

fn cloudflare() -> Provider<Cloudflare> {
    let mut service = Cloudflare::new(ACCOUNT, TOKEN);
    service.prefixes.push((SPACE.to_owned(), vec![Bgp::new(SPACE)]));
    Provider {
        service,
        section: format!("provider = \"cloudflare\"\naccount = \"{ACCOUNT}\""),
        below: "/client/v4",
        credentials: format!("api_token = {TOKEN}\n"),
        // It is looked at every 15 s while something changes there.
        times: "activation = \"30s\"\nhold = \"10m\"\n",
        is_on: |account| account.bgp(SPACE).advertised,
    }
}

/// An edge whose only rung is a provider.
struct Scene<'a, 'b, S: Service> {
    edge: &'a mut Edge<'b>,
    stand_in: &'a StandIn<S>,
    is_on: fn(&mut S) -> bool,
}

impl<S: Service> Scene<'_, '_, S> {
    fn is_on(&self) -> bool {
        self.stand_in.with(self.is_on)
    }

    fn wait(&self, what: &str, seconds: u64, holds: impl Fn(&Edge<'_>) -> bool) {
        self.edge.wait(what, seconds, holds);
    }

    fn changes(&self) -> usize {
        let requests = self.stand_in.requests();
        self.stand_in.with(|service| requests.iter().filter(|request| service.changes(request)).count())
    }
}

/// Runs a test at an edge with a provider; skips it where a program is missing.
fn with<S: Service>(provider: impl FnOnce() -> Provider<S> + Send, body: impl FnOnce(&mut Scene<'_, '_, S>) + Send) {
    if !peers::need("the ladder with a provider", &["gobgpd", "gobgp", "nft"]) {
        return;
    }
    let run = |sandbox: &Sandbox| {
        let Provider { service, section, below, credentials, times, is_on } = provider();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials");
        daemon::secret(&file, &credentials).unwrap();
        let stand_in = Arc::new(StandIn::start(service));
        let endpoint = format!("http://{}{below}", stand_in.address());
        let more = format!(
            "[[scrub]]\nname = \"centre\"\n{section}\ncredentials = {file:?}\nendpoint = {endpoint:?}\nprefixes = \
             [{SPACE:?}]\nmin_hold = \"1s\"\nmin_gap = \"1s\"\n{RUNG}{times}"
        );
        let seen = Arc::clone(&stand_in);
        let does = move || Ok(seen.with(is_on).then(|| SCRUBBED.to_owned()).into_iter().collect::<BTreeSet<_>>());
        let mut edge = Edge::with(sandbox, false, &more, |sandbox| Enforcer::start_with(sandbox, does));
        body(&mut Scene { edge: &mut edge, stand_in: &stand_in, is_on });
    };
    Sandbox::run(run).unwrap();
}

const RUNG: &str = r#"
[[ladder.rungs]]
plane = "centre"
approve = "auto"
per_day = 20
utilisation_percent = 70
"#;

fn is_calm(edge: &Edge<'_>) -> bool {
    edge.ladder().uplink.and_then(|uplink| uplink.utilisation()).is_some_and(|full| full < 0.2)
}

fn is_idle(edge: &Edge<'_>) -> bool {
    edge.ladder().rungs.iter().all(|rung| rung.steps.is_empty())
}

/// What an operator finds afterwards.
fn is_recorded(edge: &Edge<'_>) {
    let audit = edge.daemon.ok(&["audit", "show", "--json"]).unwrap();
    for act in ["centre.divert", "centre.restore", "ladder.escalated"] {
        assert!(audit.contains(act), "{act} is not in {audit}");
    }
    assert!(!audit.contains(SECRET) && !audit.contains(TOKEN) && !edge.daemon.log().contains(TOKEN));
}

#[test]
fn a_signed_webhook_is_asked_during_a_flood_and_again_when_it_is_over() {
    require_root!();
    with(webhook, |scene| {
        let plan = scene.edge.daemon.ok(&["ladder", "plan", "--times", "10000"]).unwrap();
        assert!(plan.contains("centre: divert 10.77.0.0/24"), "{plan}");
        scene.edge.flood(300);
        scene.wait("the diversion", 60, |_| scene.stand_in.with(|hook| !hook.things.is_empty()));
        scene.wait("a ladder that knows", 60, |edge| edge.rung("centre").state == "present");
        scene.wait("a calm uplink", 60, is_calm);
        scene.edge.serves();
        let said = scene.edge.daemon.ok(&["ladder"]).unwrap();
        assert!(said.contains("1. centre [") && said.contains("divert 10.77.0.0/24"), "{said}");
        scene.edge.flood(0);
        scene.wait("the end", 240, |edge| is_idle(edge) && !scene.is_on());
        is_recorded(scene.edge);
        // Every request that came was signed: the stand-in answers others with 401, and is asked again.
        let refused =
            scene.stand_in.requests().iter().filter(|request| request.header("webhook-signature").is_none()).count();
        assert_eq!(refused, 0);
        assert!(scene.stand_in.with(|hook| hook.ids.len()) >= 2);
    });
}

#[test]
fn what_an_agent_asked_for_and_died_is_taken_back_by_its_next_life() {
    require_root!();
    with(webhook, |scene| {
        // The receiver has done it, and the agent dies before it hears of it.
        scene.stand_in.fail(When::Change, Fault::DoneThenStall(Duration::from_secs(20)));
        scene.edge.flood(300);
        scene.wait("the diversion", 60, |_| scene.stand_in.with(|hook| !hook.things.is_empty()));
        scene.edge.daemon.kill().unwrap();
        assert!(scene.is_on());
        scene.edge.flood(0);
        let sandbox = scene.edge.sandbox;
        scene.edge.daemon.launch(sandbox).unwrap();
        scene.wait("the end", 240, |edge| is_idle(edge) && !scene.is_on());
        // The same while it is there and known, in an attack that goes on.
        scene.edge.flood(300);
        scene.wait("the diversion", 90, |edge| scene.is_on() && edge.rung("centre").state == "present");
        scene.edge.daemon.kill().unwrap();
        scene.edge.flood(0);
        scene.edge.daemon.launch(sandbox).unwrap();
        scene.wait("the end", 240, |edge| is_idle(edge) && !scene.is_on());
        is_recorded(scene.edge);
    });
}

#[test]
fn magic_transit_is_asked_during_a_flood_and_an_operator_takes_it_back() {
    require_root!();
    with(cloudflare, |scene| {
        scene.edge.flood(300);
        scene.wait("the diversion", 60, |_| scene.stand_in.with(|account| account.bgp(SPACE).advertised));
        scene.wait("a ladder that knows", 60, |edge| edge.rung("centre").state == "present");
        scene.wait("a calm uplink", 60, is_calm);
        scene.edge.daemon.ok(&["ladder", "withdraw", "--all"]).unwrap();
        scene.wait("the end of the diversion", 60, |_| !scene.is_on());
        assert_eq!(scene.edge.rung("centre").state, "withdrawn");
        let changes = scene.changes();
        // The attack goes on, and an operator's word holds.
        scene.wait("a full uplink", 60, |edge| {
            edge.ladder().uplink.and_then(|uplink| uplink.utilisation()).is_some_and(|full| full > 0.7)
        });
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!((scene.is_on(), scene.changes()), (false, changes));
        is_recorded(scene.edge);
    });
}
