//! The providers: a stand-in of each, the configuration that goes with it, and what is asked of it.

use std::rc::Rc;

use ftagent::{decide::ladder::What, rule::Action};
use ftagent_tests::provider::{
    Service, StandIn,
    cloudflare::{Bgp, Cloudflare},
    ovh::Ovh,
    robot::{Robot, rule},
    webhook::Webhook,
};
use serde_json::{Value, json};

use crate::rig::{About, Parts, Peer};

/// Every kind of thing that some provider can be asked for.
pub const ALL: [&str; 6] =
    ["cloudflare-divert", "cloudflare-filter", "ovh-mitigation", "ovh-filter", "robot", "webhook"];

const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";
const TOKEN: &str = "tok_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789";
const OVH_KEYS: [&str; 3] =
    ["7kbG7Bk7S9Nt7ZSV", "EXEgWIz07P0HYwtQDs7cNIqCiQaWSuHF", "MtSwSrPpNjqfVSmJhLbPyr2i45lSwPU1"];
const PASSWORD: &str = "correct-horse-battery";
/// `ftagent:correct-horse-battery` in base64.
const LOGIN: &str = "ZnRhZ2VudDpjb3JyZWN0LWhvcnNlLWJhdHRlcnk=";
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub const VICTIM: &str = "203.0.113.5";
const FILTER: &str = "filter udp sport 123 dst 203.0.113.5";

const DIVERTS: &[&str] = &["divert", "restore"];
const FILTERS: &[&str] = &["filter", "unfilter"];

/// Reads what a step asks for: `divert 203.0.113.0/24`, `filter udp dst …`, `black-hole …`.
pub fn what(text: &str) -> What {
    let (kind, rest) = text.split_once(' ').unwrap();
    match kind {
        "divert" => What::Divert { prefix: rest.parse().unwrap() },
        "black-hole" => What::BlackHole { victim: rest.parse().unwrap() },
        "source-black-hole" => What::SourceBlackHole { source: rest.parse().unwrap() },
        "limit" => What::Filter {
            matches: Box::new(rest.parse().unwrap()),
            action: Action::RateLimit(ftagent::rule::Rate::Pps(1000)),
        },
        _ => What::Filter { matches: Box::new(rest.parse().unwrap()), action: Action::Drop },
    }
}

/// What is asked, and a part of the reason why not.
type Refusal = (&'static str, &'static str);

/// What each provider cannot do: the plane, the kind, and what it refuses.
pub const REFUSALS: &[(&str, &str, &[Refusal])] = &[
    (
        "cf",
        "cloudflare-filter",
        &[
            ("divert 203.0.113.0/24", "add \"divert\" to `takes`"),
            ("filter udp dst 198.51.100.1", "outside `prefixes`"),
            ("filter udp sport 123", "no destination"),
            ("filter udp frag is dst 203.0.113.5", "fragments"),
            ("limit udp dst 203.0.113.5", "limit rates"),
            ("black-hole 203.0.113.5/32", "`takes`"),
        ],
    ),
    (
        "ovh",
        "ovh-filter",
        &[
            ("divert 203.0.113.5/32", "add \"divert\" to `takes`"),
            ("filter udp sport 1000-2000 dst 203.0.113.5", "no ranges"),
            ("filter udp dst 203.0.113.0/28", "one address"),
            ("filter tcp flags syn/syn+ack dst 203.0.113.5", "TCP flags"),
            ("limit udp dst 203.0.113.5", "limit rates"),
        ],
    ),
    ("ovhm", "ovh-mitigation", &[("divert 203.0.113.128/26", "outside `prefixes`")]),
    (
        "robot",
        "robot",
        &[
            ("divert 203.0.113.5/32", "no scrubbing"),
            ("filter udp len 100-200 dst 203.0.113.5", "length"),
            ("filter udp sport 1,3,5,7,9,11,13,15,17,19,21 dst 203.0.113.5", "11 rules"),
        ],
    ),
    (
        "cloud",
        "cloud",
        &[("divert 203.0.113.5/32", "no scrubbing"), ("filter udp sport 123 dst 203.0.113.5", "no rule that drops")],
    ),
    ("hook", "webhook", &[("filter udp sport 123 dst 203.0.113.5", "`takes`"), ("divert 198.51.100.0/24", "outside")]),
];

/// Returns the parts of a kind's rig.
pub fn parts(kind: &str) -> Parts {
    match kind {
        "cloudflare-divert" => cloudflare_divert().1,
        "cloudflare-filter" => cloudflare_filter().1,
        "ovh-mitigation" => ovh_mitigation().1,
        "ovh-filter" => ovh_filter().1,
        "robot" => hetzner().1,
        "cloud" => Parts { config: "provider = \"hetzner-cloud\"".to_owned(), ..hetzner().1 },
        _ => hook().1,
    }
}

/// Gives the test a hold of the stand-in beside the rig's.
fn shared<S: Service>(about: About<S>) -> (Rc<About<S>>, Box<dyn Peer>) {
    let about = Rc::new(about);
    (Rc::clone(&about), Box::new(about))
}

fn account() -> Cloudflare {
    let mut account = Cloudflare::new(ACCOUNT, TOKEN);
    account.prefixes.push(("198.51.100.0/24".into(), vec![Bgp::new("198.51.100.0/24")]));
    account.prefixes.push(("203.0.112.0/23".into(), vec![Bgp::new("203.0.112.0/23"), Bgp::new("203.0.113.0/24")]));
    account
}

fn of_cloudflare(peer: Box<dyn Peer>, takes: &str, what: &'static str, verbs: &'static [&'static str]) -> Parts {
    Parts {
        peer,
        below: "/client/v4",
        credentials: format!("api_token = {TOKEN}\n"),
        config: format!(
            "provider = \"cloudflare\"\naccount = \"{ACCOUNT}\"\nprefixes = [\"203.0.113.0/24\"]\ntakes = [\"{takes}\"]\n"
        ),
        what,
        verbs,
        secrets: vec![TOKEN.to_owned()],
    }
}

pub fn cloudflare_divert() -> (Rc<About<Cloudflare>>, Parts) {
    let (about, peer) = shared(About {
        stand_in: StandIn::start(account()),
        there: |account: &mut Cloudflare| {
            account.prefixes.iter().flat_map(|(_, below)| below).filter(|bgp| bgp.advertised).count()
        },
        by_hand: |account, there| account.bgp("203.0.113.0/24").advertised = there,
        slow: |account, looks| account.delay = looks,
        vain: |account, changes| account.vain = changes,
    });
    (about, of_cloudflare(peer, "divert", "divert 203.0.113.5/32", DIVERTS))
}

pub fn cloudflare_filter() -> (Rc<About<Cloudflare>>, Parts) {
    let (about, peer) = shared(About {
        stand_in: StandIn::start(account()),
        there: |account: &mut Cloudflare| account.rules.as_ref().map_or(0, Vec::len),
        by_hand: |account, there| {
            // By hand it is put back as it was.
            let rules = account.rules.get_or_insert_default();
            if there { rules.append(&mut account.removed) } else { account.removed.append(rules) }
        },
        slow: |account, looks| account.delay = looks,
        vain: |account, changes| account.vain = changes,
    });
    (about, of_cloudflare(peer, "filter", FILTER, FILTERS))
}

fn of_ovh(peer: Box<dyn Peer>, takes: &str, what: &'static str, verbs: &'static [&'static str]) -> Parts {
    let [key, secret, consumer] = OVH_KEYS;
    Parts {
        peer,
        below: "/1.0",
        credentials: format!("application_key = {key}\napplication_secret = {secret}\nconsumer_key = {consumer}\n"),
        config: format!("provider = \"ovh\"\nprefixes = [\"203.0.113.0/28\"]\ntakes = [\"{takes}\"]\n"),
        what,
        verbs,
        secrets: OVH_KEYS.map(str::to_owned).to_vec(),
    }
}

/// Starts one that knows where it listens, and whose clock is off by a quarter of an hour.
fn ovh() -> StandIn<Ovh> {
    let stand_in = StandIn::start(Ovh::new(OVH_KEYS, "203.0.113.0/28"));
    let origin = format!("http://{}", stand_in.address());
    stand_in.with(|ovh| (ovh.origin, ovh.skew) = (origin, 900));
    stand_in
}

pub fn ovh_mitigation() -> (Rc<About<Ovh>>, Parts) {
    let (about, peer) = shared(About {
        stand_in: ovh(),
        there: |ovh: &mut Ovh| usize::from(ovh.mitigated(VICTIM)),
        by_hand: |ovh, there| ovh.mitigate(VICTIM, there),
        slow: |ovh, looks| ovh.delay = looks,
        vain: |ovh, changes| ovh.vain = changes,
    });
    (about, of_ovh(peer, "divert", "divert 203.0.113.5/32", DIVERTS))
}

/// The rule of [`FILTER`] as OVH shows it.
pub fn ovh_rule() -> Value {
    json!({
        "sequence": 4, "action": "deny", "protocol": "udp", "source": "any", "destination": "203.0.113.5/32",
        "sourcePort": "eq 123", "destinationPort": null, "fragments": false, "tcpOption": null, "rule": "…",
    })
}

pub fn ovh_filter() -> (Rc<About<Ovh>>, Parts) {
    let (about, peer) = shared(About {
        stand_in: ovh(),
        there: |ovh: &mut Ovh| {
            let on = ovh.firewalls.get(VICTIM).is_some_and(|firewall| firewall.enabled);
            if on { ovh.rules(VICTIM).len() } else { 0 }
        },
        by_hand: |ovh, there| {
            ovh.clear_rules(VICTIM);
            if there {
                ovh.put_rule(VICTIM, 4, ovh_rule());
                ovh.firewalls.entry(VICTIM.to_owned()).or_default().enabled = true;
            }
        },
        slow: |ovh, looks| ovh.delay = looks,
        vain: |ovh, changes| ovh.vain = changes,
    });
    (about, of_ovh(peer, "filter", FILTER, &["filter", "filter", "unfilter", "unfilter"]))
}

pub fn hetzner() -> (Rc<About<Robot>>, Parts) {
    let (about, peer) = shared(About {
        stand_in: StandIn::start(Robot::new("321", LOGIN)),
        there: |robot: &mut Robot| robot.input.iter().filter(|rule| rule["action"] == "discard").count(),
        by_hand: |robot, there| {
            // Whoever does it by hand puts back what was there, name and all.
            let ours = |rule: &Value| rule["action"] == "discard";
            if there {
                robot.input.splice(0..0, std::mem::take(&mut robot.removed));
            } else {
                robot.removed = robot.input.iter().filter(|rule| ours(rule)).cloned().collect();
                robot.input.retain(|rule| !ours(rule));
            }
        },
        slow: |robot, looks| robot.delay = looks,
        vain: |robot, changes| robot.vain = changes,
    });
    let parts = Parts {
        peer,
        below: "",
        credentials: format!("user = ftagent\npassword = {PASSWORD}\n"),
        config: "provider = \"hetzner-robot\"\naccount = \"321\"\nprefixes = [\"203.0.113.5\"]\n".to_owned(),
        what: FILTER,
        verbs: FILTERS,
        secrets: vec![PASSWORD.to_owned(), LOGIN.to_owned()],
    };
    (about, parts)
}

/// An operator's own rule of Robot.
pub fn own_rule(name: &str, port: &str) -> Value {
    rule(&[("name", name), ("ip_version", "ipv4"), ("dst_port", port), ("protocol", "tcp"), ("action", "accept")])
}

pub fn hook() -> (Rc<About<Webhook>>, Parts) {
    let (about, peer) = shared(About {
        stand_in: StandIn::start(Webhook::new(SECRET)),
        there: |webhook: &mut Webhook| webhook.things.len(),
        by_hand: |webhook, there| {
            let key = webhook.last_key.clone();
            if there {
                webhook.things.insert(key, 0);
            } else {
                webhook.things.remove(&key);
            }
        },
        slow: |webhook, looks| webhook.delay = looks,
        vain: |webhook, changes| webhook.vain = changes,
    });
    let parts = Parts {
        peer,
        below: "/ddos",
        credentials: format!("secret = {SECRET}\n"),
        config: "provider = \"webhook\"\nprefixes = [\"203.0.113.0/24\"]\n".to_owned(),
        what: "divert 203.0.113.0/24",
        verbs: DIVERTS,
        secrets: vec![SECRET.to_owned(), SECRET.trim_start_matches("whsec_").to_owned()],
    };
    (about, parts)
}
