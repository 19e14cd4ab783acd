//! What only Cloudflare has: locks, hysteresis, windows of requests, rulesets of others.

use std::{rc::Rc, time::Duration};

use ftagent::decide::ladder::Standing;
use ftagent_tests::{
    http::Response,
    provider::{
        Fault, When,
        cloudflare::{Bgp, Cloudflare},
    },
};
use serde_json::json;

use crate::{
    providers::{cloudflare_divert, cloudflare_filter, what},
    rig::{About, Rig},
};

fn divert() -> (Rc<About<Cloudflare>>, Rig) {
    let (peer, parts) = cloudflare_divert();
    (peer, Rig::with("magic", parts))
}

#[test]
fn what_may_not_be_changed_is_refused_with_the_reason() {
    type Spoil = fn(&mut Bgp);
    let rows: [(&str, Spoil); 3] = [
        ("not enabled", |bgp| bgp.enabled = false),
        ("locked", |bgp| bgp.locked = true),
        ("BGP signals", |bgp| bgp.signal = true),
    ];
    for (part, spoil) in rows {
        let (peer, mut rig) = divert();
        peer.stand_in.with(|account| spoil(account.bgp("203.0.113.0/24")));
        let standing = rig.look(true);
        assert!(matches!(&standing, Standing::Refused(why) if why.contains(part)), "{part}: {standing:?}");
        assert_eq!(rig.acts(), Vec::<String>::new(), "{part}: nothing was asked for");
        // What is mended there is seen.
        peer.stand_in.with(|account| *account.bgp("203.0.113.0/24") = Bgp::new("203.0.113.0/24"));
        rig.until_present();
        rig.until_gone();
    }
}

#[test]
fn what_is_locked_while_it_is_announced_is_told_until_it_goes() {
    let (peer, mut rig) = divert();
    rig.until_present();
    peer.stand_in.with(|account| account.bgp("203.0.113.0/24").locked = true);
    rig.pass(Duration::from_secs(1800));
    let report = rig.report(false);
    assert_eq!(report.leaving, 1);
    assert!(report.trouble.is_some_and(|why| why.contains("still there") && why.contains("cannot be changed")));
    peer.stand_in.with(|account| account.bgp("203.0.113.0/24").locked = false);
    rig.until_gone();
}

#[test]
fn the_narrowest_prefix_inside_what_is_allowed_is_announced() {
    // Around the address stand a /23 and a /24; only the /24 is the configuration's.
    let (peer, mut rig) = divert();
    rig.until_present();
    peer.stand_in.with(|account| {
        assert!(account.bgp("203.0.113.0/24").advertised && !account.bgp("203.0.112.0/23").advertised);
    });
    rig.until_gone();
    // Without it there is nothing that may be announced.
    let (peer, mut rig) = divert();
    peer.stand_in.with(|account| drop(account.prefixes[1].1.remove(1)));
    let standing = rig.look(true);
    assert!(matches!(&standing, Standing::Refused(why) if why.contains("no BGP prefix around")), "{standing:?}");
    assert_eq!(peer.stand_in.requests().iter().filter(|request| request.method != "GET").count(), 0);
}

#[test]
fn two_steps_for_one_prefix_are_one_announcement() {
    let (_peer, mut rig) = divert();
    let wanted = [what("divert 203.0.113.5/32"), what("divert 203.0.113.9/32")];
    rig.report_of(&wanted);
    let report = rig.report_of(&wanted);
    assert!(report.steps.iter().all(|(_, standing)| *standing == Standing::Present), "{report:?}");
    assert_eq!(rig.acts(), ["divert", "ok"]);
    // One of them is enough to keep it.
    let report = rig.report_of(&wanted[1..]);
    assert_eq!((report.steps[0].1.clone(), report.leaving), (Standing::Present, 0));
    rig.until_gone();
}

#[test]
fn a_load_that_flaps_does_not_make_the_announcement_flap() {
    let (_peer, mut rig) = divert();
    for _ in 0..10 {
        rig.look(true);
        rig.rest();
        rig.report(false);
        rig.rest();
    }
    let announced = rig.acts().iter().filter(|verb| *verb == "divert").count();
    assert_eq!(announced, 1, "{:?}", rig.acts());
    assert_eq!(rig.report(false).leaving, 1, "it is held, and the report says so");
    rig.until_gone();
    // Wanted again, and again, while it is kept in mind: it comes back once.
    rig.until_present();
    assert_eq!(rig.acts().iter().filter(|verb| *verb == "divert").count(), 2);
}

#[test]
fn a_withdrawal_counts_as_leaving_until_the_internet_has_it() {
    let (peer, mut rig) = divert();
    rig.until_present();
    rig.pass(Duration::from_secs(1800));
    rig.report(false);
    rig.rest();
    assert_eq!(rig.report(false).leaving, 1);
    assert!(!peer.stand_in.with(|account| account.bgp("203.0.113.0/24").advertised));
    // Wanted again meanwhile: told why it has to wait.
    let standing = rig.look(true);
    assert!(matches!(&standing, Standing::Failed(why) if why.contains("does not flap")), "{standing:?}");
    rig.until_gone();
}

#[test]
fn a_window_that_is_used_up_is_waited_for() {
    let (peer, mut rig) = divert();
    peer.stand_in.with(|account| account.ratelimit = Some("\"default\";r=1;t=2".to_owned()));
    rig.look(true);
    let asked = peer.stand_in.requests().len();
    rig.look(true);
    assert_eq!(peer.stand_in.requests().len(), asked, "nothing more is asked in this window");
    peer.stand_in.with(|account| account.ratelimit = None);
    rig.until_present();
    rig.until_gone();
}

#[test]
fn an_answer_without_success_is_none() {
    let (peer, mut rig) = divert();
    let body = json!({ "success": false, "errors": [{ "code": 1000, "message": "not now" }], "result": null });
    peer.stand_in.fail(When::Change, Fault::Answer(Response::json(200, &body)));
    // It is not ready, which is no failure before its time is over.
    assert_eq!(rig.look(true), Standing::Asked);
    assert_eq!(rig.acts(), ["divert", "failed"]);
}

#[test]
fn only_one_rule_is_added_to_the_ruleset_of_others() {
    let (peer, parts) = cloudflare_filter();
    let own = json!({ "id": "own", "action": "skip", "expression": "ip.src == 192.0.2.1", "description": "ours",
                      "enabled": true });
    peer.stand_in.with(|account| account.rules = Some(vec![own.clone()]));
    let mut rig = Rig::with("mnf", parts);
    rig.until_present();
    peer.stand_in.with(|account| {
        let rules = account.rules.as_ref().unwrap();
        assert_eq!((rules.len(), &rules[0]), (2, &own));
        assert_eq!(rules[1]["expression"], "ip.dst == 203.0.113.5 and ip.proto == \"udp\" and udp.srcport == 123");
    });
    // A rule that somebody switched off was taken back.
    peer.stand_in.with(|account| account.rules.as_mut().unwrap()[1]["enabled"] = json!(false));
    rig.until(|standing| *standing == Standing::TakenBack);
    peer.stand_in.with(|account| account.rules.as_mut().unwrap()[1]["enabled"] = json!(true));
    // Without the journal it is known by its mark, and taken back where nobody wants it.
    rig.spoil_journal(None);
    rig.restart();
    rig.until_gone();
    peer.stand_in.with(|account| assert_eq!(account.rules.as_ref().unwrap(), &[own]));
}

#[test]
fn an_account_without_a_ruleset_is_not_given_one() {
    let (peer, parts) = cloudflare_filter();
    peer.stand_in.with(|account| account.rules = None);
    let mut rig = Rig::with("mnf", parts);
    let report = rig.report(false);
    assert!(report.trouble.is_some_and(|why| why.contains("no ruleset")), "an attack is a bad time to find out");
    let standing = rig.look(true);
    assert!(matches!(&standing, Standing::Refused(why) if why.contains("no ruleset")), "{standing:?}");
}

#[test]
fn a_damaged_journal_is_set_aside_and_told_and_no_trouble() {
    let (_peer, mut rig) = divert();
    rig.until_present();
    assert_eq!(rig.found(), None);
    rig.spoil_journal(Some("{\"version\":1,\"entr"));
    rig.restart();
    assert!(rig.found().is_some_and(|why| why.contains("set aside") && why.contains("left over")));
    // The plane does whatever is asked of it, for the rest of this life.
    assert_eq!(rig.report(false).trouble, None);
    rig.until_present();
    assert_eq!(rig.report(true).trouble, None);
}

#[test]
fn an_idle_plane_asks_once_and_then_keeps_quiet() {
    let (peer, mut rig) = divert();
    (0..20).for_each(|_| drop(rig.report(false)));
    // The account's prefixes, and the BGP prefixes of the one that matters.
    assert_eq!(peer.stand_in.requests().len(), 2);
}
