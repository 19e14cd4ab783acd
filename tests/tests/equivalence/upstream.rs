//! What the plane `flowspec` announces for rules where there are exemptions and an allow list: no route matches what is
//! exempt or allowed, and of all else routes match what the kernel program drops by the same rules.
//!
//! The routes are those of the daemon: rules are split around what is exempt as they are when they are made, become
//! steps of the ladder, pass the last check before a BGP daemon, and are read back from their octets.

use std::net::IpAddr;

use ftagent::{
    act::bgp::{Kind as Routes, Nlri, check::route, marker},
    bpf::{
        lists::Which,
        rules::Placed,
        testrun::{HZ, MIN_FRAME, TestRun},
    },
    config::{Bgp, Config},
    decide::{
        Packet,
        ladder::{
            Attack, Filter, Kind, Upstream, What,
            safety::{said, wishes},
        },
        mitigate::Exempt,
        synthesis::exempt::{all, around},
    },
    rule::{
        Action, Family, FlowMatch, Fragment, Origin, Rule,
        check::{Guarded, exempt_flows},
        flowspec::FlowSpec,
    },
};
use ftagent_common::{TrafficClass, reason::verdict};
use ftagent_tests::{packet::proto, require_root};
use ipnet::IpNet;
use rand::{Rng, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    asked, draw,
    flowspec::{FIRST, LAST, Read, read},
};

/// Rules of a run in CI, and packets of each; `FTAGENT_EQUIVALENCE_UPSTREAM` asks for more rules.
const RULES: usize = 500;
const PACKETS: usize = 90;
/// Rules that one becomes at most where it goes around what is exempt, as when the daemon makes them.
const PARTS: usize = 40;
/// Announcements of one rule: none is left out for want of room.
const MOST: usize = 100_000;

/// The operator's configuration: own space of both families, and somebody in it who is never to be met.
const CONFIG: &str = r#"
[bgp]
daemon = "gobgp"
asn = 64500
marker = "64500:1:1"
own_prefixes = ["10.0.0.0/13", "192.0.2.0/24", "198.51.0.0/16", "2001:db8::/32", "fd00::/16"]
"#;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A host and all that it depends on, out of the addresses that rules are drawn from.
fn guarded() -> Guarded {
    Guarded {
        own: ["10.1.0.5/32", "192.0.2.7/32", "2001:db8:0:1::5/128"].map(net).to_vec(),
        gateways: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        resolvers: vec![ip("192.0.2.3"), ip("10.2.0.3"), ip("2001:db8:0:2::3")],
        ssh_ports: vec![22, 443],
        operators: vec![ip("198.51.1.9"), ip("2001:db8:0:3::9")],
        caller: None,
        bgp: vec![ip("10.3.0.2"), ip("fd00::2")],
    }
}

/// All that is in place.
struct World {
    exempt: Vec<FlowMatch>,
    of_ladder: Exempt,
    upstream: Upstream,
    victims: Vec<IpAddr>,
    bgp: Bgp,
}

impl World {
    fn new() -> Self {
        let guarded = guarded();
        let own = guarded.own.iter().map(IpNet::addr).collect();
        let of_ladder = Exempt { flows: exempt_flows(&guarded), own };
        let bgp = Config::parse(CONFIG, "t").unwrap().bgp.unwrap();
        // Each is gone around in as many parts as its prefix is longer than a rule's: few, or nothing is asked for.
        let allowed = ["10.1.0.0/16", "198.51.2.0/24", "fd00::/16"];
        Self {
            exempt: all(&of_ladder),
            upstream: Upstream {
                space: bgp.own_prefixes.clone(),
                allowed: allowed.map(net).to_vec(),
                ..Upstream::default()
            },
            // The host itself, a guest beside it, and one of each family that nothing is known of.
            victims: ["10.1.0.5", "10.2.0.9", "192.0.2.7", "2001:db8:0:1::5", "fd00:0:0:0:100::4"].map(ip).to_vec(),
            of_ladder,
            bgp,
        }
    }

    /// The rule as the daemon has it in force: in parts that go around what is exempt; none where it cannot.
    fn in_force(&self, rule: &FlowMatch) -> Option<Vec<FlowMatch>> {
        around(rule, &self.exempt, PARTS).ok()
    }

    /// What is announced for a rule in force.
    fn announced(&self, rule: &FlowMatch) -> Plan {
        let filter = Filter { matches: said(rule).0, action: Action::Drop, share: 1.0, rule: 1 };
        let share = 1.0 / self.victims.len() as f64;
        let attack = Attack {
            filters: vec![filter],
            victims: self.victims.iter().map(|victim| (*victim, share)).collect(),
            ..Attack::default()
        };
        let mut plan = Plan { rule: rule.clone(), routes: Vec::new(), given_up: Vec::new() };
        let wishes = wishes(Kind::Filter, &attack, &self.upstream, &self.of_ladder, MOST).unwrap_or_default();
        for (what, _) in wishes {
            let What::Filter { matches, .. } = &what else { panic!("{what}") };
            match self.route(&what, matches) {
                Some(route) => plan.routes.push(route),
                None => plan.given_up.extend(matches.dst),
            }
        }
        plan
    }

    /// The last check, and the octets.
    fn route(&self, what: &What, matches: &FlowMatch) -> Option<Announced> {
        // What would drop everything towards a victim is refused there.
        let route = route(Routes::FlowSpec, what, &self.bgp, marker(&self.bgp)).ok()?;
        let Nlri::Flow(spec) = route.nlri() else { panic!("{what}") };
        let family = matches.family().unwrap();
        let bytes = spec.encode();
        let (spec, rest) = FlowSpec::decode(family, &bytes).unwrap();
        assert!(rest.is_empty());
        let first_fragments = FlowSpec::compile(matches, family).unwrap().first_fragments;
        Some(Announced { asked: matches.clone(), spec, first_fragments })
    }

    /// Whether a packet is exempt or allowed.
    fn is_spared(&self, packet: &Packet, read: &Read) -> bool {
        self.upstream.allowed.iter().any(|net| net.contains(&read.ends.0))
            || self.exempt.iter().any(|flow| flow.matches(&packet.subject()))
    }
}

/// A rule in force, and what is announced for it.
struct Plan {
    rule: FlowMatch,
    routes: Vec<Announced>,
    /// Destinations of which something was refused in the end.
    given_up: Vec<IpNet>,
}

impl Plan {
    /// Whether it is asked of routers that they do what the rule does to packets towards an address.
    fn is_about(&self, address: IpAddr) -> bool {
        let to = |dst: IpNet| dst.contains(&address);
        let about = self.routes.iter().filter_map(|route| route.asked.dst).any(to);
        about && !self.given_up.iter().copied().any(to)
    }
}

/// A route, read back.
struct Announced {
    asked: FlowMatch,
    spec: FlowSpec,
    first_fragments: bool,
}

/// A match that a packet for this experiment is drawn from: of the rule, of something exempt, of both where they do not
/// contradict each other, or of the rule and an allowed source; towards a victim.
fn target(rng: &mut impl Rng, world: &World, rule: &FlowMatch) -> FlowMatch {
    let exempt = draw::pick(rng, &world.exempt.iter().collect::<Vec<_>>());
    let mut drawn = match rng.random_range(0..10) {
        0..=3 => rule.clone(),
        4 | 5 => both(exempt, rule),
        6 => both(rule, exempt),
        7 => exempt.clone(),
        _ => FlowMatch { src: Some(draw::pick(rng, &world.upstream.allowed)), ..rule.clone() },
    };
    let is4 = |net: IpNet| net.addr().is_ipv4();
    let family = drawn.family.map(|family| family == Family::Ip4).or(drawn.src.map(is4)).or(drawn.dst.map(is4));
    let fits = |victim: &&IpAddr| family.is_none_or(|four| victim.is_ipv4() == four);
    let victims: Vec<IpAddr> = world.victims.iter().filter(fits).copied().collect();
    if drawn.dst.is_none() || rng.random_bool(0.5) {
        drawn.dst = Some(draw::pick(rng, &victims).into());
    }
    drawn
}

/// What the first asks for, and what it leaves open of the second.
fn both(first: &FlowMatch, second: &FlowMatch) -> FlowMatch {
    let mut both = second.clone();
    macro_rules! take {
        ($($field:ident),*) => { $(if !first.$field.is_any() { both.$field = first.$field.clone(); })* };
    }
    take!(proto, port, sport, dport, icmp_type, icmp_code, len, dscp, ttl);
    both.family = first.family.or(first.src.or(first.dst).is_none().then_some(second.family).flatten());
    both.src = first.src.or(second.src);
    both.dst = first.dst.or(second.dst);
    both
}

/// What was compared.
#[derive(Debug, Default)]
struct Tally {
    /// Rules that the daemon cannot have, because they do not go around what is exempt.
    impossible: u64,
    /// Rules of which nothing is announced.
    unsaid: u64,
    routes: u64,
    compared: u64,
    dropped: u64,
    /// Packets that the rule as it was drawn would drop, and that are exempt or allowed.
    spared: u64,
    /// Packets beyond the kernel's verdict, of kinds that are declared.
    beyond: u64,
}

#[test]
fn routes_spare_what_is_exempt_or_allowed_and_are_otherwise_what_the_kernel_does() {
    require_root!();
    let rules = asked("FTAGENT_EQUIVALENCE_UPSTREAM", RULES);
    let seed = asked("FTAGENT_EQUIVALENCE_SEED", super::SEED);
    let (mut rng, world, mut tally) = (ChaCha8Rng::seed_from_u64(seed), World::new(), Tally::default());
    let mut run = TestRun::new(1).unwrap();
    world.upstream.allowed.iter().for_each(|net| run.lists.insert(Which::Allow, *net, u64::MAX, 0).unwrap());
    let mut left = rules;
    while left > 0 {
        let rule = draw::flow_match(&mut rng);
        let Some(parts) = world.in_force(&rule) else {
            tally.impossible += 1;
            continue;
        };
        left -= 1;
        let plans: Vec<Plan> = parts.iter().map(|part| world.announced(part)).collect();
        tally.unsaid += u64::from(plans.iter().all(|plan| plan.routes.is_empty()));
        tally.routes += plans.iter().map(|plan| plan.routes.len() as u64).sum::<u64>();
        run.rules.install(&placed(&parts), HZ).unwrap();
        let case = Case { world: &world, rule: &rule, plans: &plans };
        for _ in 0..PACKETS {
            let matches = target(&mut rng, &world, &rule);
            case.compare(&mut run, &draw::frame(&mut rng, &matches), &mut tally);
        }
    }
    eprintln!("equivalence upstream: {rules} rules × {PACKETS} packets (seed {seed}): {tally:?}, no disagreement");
    let Tally { impossible, unsaid, routes, compared, dropped, spared, beyond } = tally;
    let rules = rules as u64;
    assert!(impossible < rules * 2 && unsaid < rules * 2 / 3, "{impossible} and {unsaid} of {rules}");
    assert!(routes > rules / 2 && compared > rules * 10 && dropped > compared / 20, "{routes} {compared} {dropped}");
    assert!(spared > compared / 50, "packets to spare are drawn: {spared} of {compared}");
    assert!(beyond < dropped, "what is declared is the exception: {beyond} against {dropped}");
}

fn placed(rules: &[FlowMatch]) -> Vec<Placed> {
    let rule = |matches: &FlowMatch| Rule {
        matches: matches.clone(),
        action: Action::Drop,
        origin: Origin::Config,
        reason: String::new(),
    };
    (0u8..).zip(rules).map(|(slot, matches)| Placed { slot, rule: rule(matches), expires: u64::MAX }).collect()
}

/// A rule as it was drawn, and what became of it.
struct Case<'a> {
    world: &'a World,
    rule: &'a FlowMatch,
    plans: &'a [Plan],
}

impl Case<'_> {
    fn compare(&self, run: &mut TestRun, frame: &[u8], tally: &mut Tally) {
        let packet = Packet::decode(0, frame, frame.len(), None, false);
        if packet.class == TrafficClass::Malformed || frame.len() < MIN_FRAME {
            return;
        }
        // What a router makes of the others is its own affair.
        let Some(read) = read(frame) else { return };
        let mut routes = self.plans.iter().flat_map(|plan| &plan.routes);
        let matching = routes.find(|one| one.spec.matches(&read.subject()));
        let dropped = run.run(frame).unwrap() == verdict::DROP;
        let shown =
            || format!("`{}` {frame:02x?} ({:?}) by {:?}", self.rule, packet.key, matching.map(|one| &one.asked));
        if self.world.is_spared(&packet, &read) {
            tally.spared += u64::from(self.rule.matches(&packet.subject()));
            assert!(matching.is_none() && !dropped, "it is exempt or allowed: {}", shown());
            return;
        }
        // No router can be asked for the ICMP of the other family (RFC 8955, 4.2.2.7; RFC 8956, 3.5).
        if matches!((read.ends.0.is_ipv4(), read.key.proto), (true, proto::ICMPV6) | (false, proto::ICMP)) {
            return;
        }
        let (subject, dst) = (packet.subject(), read.ends.1);
        if matching.is_none() && !self.plans.iter().any(|plan| plan.is_about(dst)) {
            return;
        }
        tally.compared += 1;
        tally.dropped += u64::from(dropped);
        let asked = self.plans.iter().any(|plan| plan.is_about(dst) && plan.rule.matches(&subject));
        assert!(matching.is_some() || !(dropped && asked), "what the kernel drops is left out: {}", shown());
        if let (Some(one), false) = (matching, dropped) {
            assert!(self.is_declared(one, &packet, &read), "more than the kernel drops: {}", shown());
            tally.beyond += 1;
        }
    }

    /// Whether a packet is of a kind that routes take beyond rules, as they say.
    fn is_declared(&self, one: &Announced, packet: &Packet, read: &Read) -> bool {
        let blind = |plan: &Plan| said(&plan.rule).1 && said(&plan.rule).0.matches(&packet.subject());
        let first = one.first_fragments && read.key.fragment & FIRST != 0;
        let last = !read.ends.0.is_ipv4() && read.key.fragment & LAST != 0;
        self.plans.iter().any(blind) || first || last && one.asked.frag.contains(&Fragment::Last)
    }
}
