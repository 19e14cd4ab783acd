//! What only OVH has: two steps to a firewall, sequences, addresses one by one, a clock of its own.

use ftagent::decide::ladder::Standing;
use ftagent_tests::{
    http::Response,
    provider::{Fault, When},
};
use serde_json::json;

use crate::{
    providers::{VICTIM, ovh_filter, ovh_mitigation},
    rig::Rig,
};

#[test]
fn a_firewall_is_made_switched_on_and_off_again() {
    let (peer, parts) = ovh_filter();
    let mut rig = Rig::with("enf", parts);
    rig.until_present();
    let changes: Vec<String> = peer
        .stand_in
        .requests()
        .iter()
        .filter(|request| request.method != "GET")
        .map(|request| format!("{} {} {}", request.method, request.path, String::from_utf8_lossy(&request.body)))
        .collect();
    let block = "/1.0/ip/203.0.113.0%2F28/firewall";
    assert_eq!(
        changes,
        [
            format!("POST {block} {{\"ipOnFirewall\":\"{VICTIM}\"}}"),
            format!("PUT {block}/{VICTIM} {{\"enabled\":true}}"),
            format!(
                "POST {block}/{VICTIM}/rule {{\"action\":\"deny\",\"protocol\":\"udp\",\"sequence\":0,\"sourcePort\":123}}"
            ),
        ]
    );
    rig.until_gone();
    peer.stand_in.with(|ovh| assert!(!ovh.firewalls[VICTIM].enabled && ovh.rules(VICTIM).is_empty()));
}

#[test]
fn a_firewall_that_was_on_stays_on_with_its_rules() {
    let (peer, parts) = ovh_filter();
    let own = json!({ "sequence": 0, "action": "permit", "protocol": "tcp", "tcpOption": "established" });
    peer.stand_in.with(|ovh| {
        ovh.put_rule(VICTIM, 0, own.clone());
        ovh.firewalls.get_mut(VICTIM).unwrap().enabled = true;
    });
    let mut rig = Rig::with("enf", parts);
    rig.until_present();
    peer.stand_in.with(|ovh| assert_eq!(ovh.rules(VICTIM)[1]["sequence"], 1, "the first that is free"));
    rig.until_gone();
    peer.stand_in.with(|ovh| {
        assert!(ovh.firewalls[VICTIM].enabled);
        assert_eq!(ovh.rules(VICTIM), [own]);
    });
}

#[test]
fn a_firewall_that_is_full_is_refused() {
    let (peer, parts) = ovh_filter();
    peer.stand_in.with(|ovh| {
        let rule = json!({ "action": "permit", "protocol": "gre" });
        (0..20).for_each(|sequence| ovh.put_rule(VICTIM, sequence, rule.clone()));
        ovh.firewalls.get_mut(VICTIM).unwrap().enabled = true;
    });
    let mut rig = Rig::with("enf", parts);
    let standing = rig.look(true);
    assert!(matches!(&standing, Standing::Refused(why) if why.contains("all 20 rules")), "{standing:?}");
    let asked = rig.acts().len();
    rig.look(true);
    assert_eq!(rig.acts().len(), asked, "it is not asked again");
}

#[test]
fn addresses_are_mitigated_one_by_one() {
    let (peer, parts) = ovh_mitigation();
    let mut rig = Rig::with("vac", parts);
    rig.about("divert 203.0.113.4/30");
    rig.until_present();
    let all = ["203.0.113.4", "203.0.113.5", "203.0.113.6", "203.0.113.7"];
    peer.stand_in.with(|ovh| assert!(all.iter().all(|ip| ovh.mitigated(ip))));
    // One that OVH's own automaton began is not ours to end.
    rig.until_gone();
    peer.stand_in.with(|ovh| ovh.mitigate("203.0.113.4", true));
    rig.until_present();
    rig.until_gone();
    peer.stand_in.with(|ovh| assert_eq!(all.map(|ip| ovh.mitigated(ip)), [true, false, false, false]));
}

#[test]
fn a_clock_that_steps_on_either_side_costs_one_more_request() {
    let (peer, parts) = ovh_mitigation();
    let mut rig = Rig::with("vac", parts);
    rig.until_present();
    peer.stand_in.with(|ovh| ovh.skew = -7200);
    assert_eq!(rig.look(true), Standing::Present);
    assert!(rig.report(true).trouble.is_none());
    rig.until_gone();
}

#[test]
fn a_block_that_ovh_does_not_know_is_told_when_nothing_is_wanted_yet() {
    let (_peer, parts) = ovh_mitigation();
    let parts = crate::rig::Parts { config: parts.config.replace("203.0.113.0/28", "203.0.113.0/27"), ..parts };
    let mut rig = Rig::with("vac", parts);
    let report = rig.report_of(&[]);
    assert!(report.trouble.is_some_and(|why| why.contains("does not know")), "an attack is a bad time to find out");
}

#[test]
fn a_firewall_that_was_made_and_not_switched_on_is_switched_on_in_the_end() {
    let (peer, parts) = ovh_filter();
    let mut rig = Rig::with("enf", parts);
    peer.stand_in.fail(When::Method("PUT"), Fault::Answer(Response::empty(502)));
    let standing = rig.look(true);
    assert!(matches!(standing, Standing::Failed(_)), "{standing:?}");
    peer.stand_in.with(|ovh| assert!(!ovh.firewalls[VICTIM].enabled, "half of it was done"));
    rig.until_present();
    rig.until_gone();
    peer.stand_in.with(|ovh| assert!(!ovh.firewalls[VICTIM].enabled && ovh.rules(VICTIM).is_empty()));
}

#[test]
fn a_firewall_that_is_off_with_rules_in_it_is_not_switched_on() {
    let (peer, parts) = ovh_filter();
    let own = json!({ "sequence": 19, "action": "deny", "protocol": "ipv4" });
    peer.stand_in.with(|ovh| ovh.put_rule(VICTIM, 19, own));
    let mut rig = Rig::with("enf", parts);
    let standing = rig.look(true);
    assert!(matches!(&standing, Standing::Refused(why) if why.contains("is off and has rules")), "{standing:?}");
    assert!(peer.stand_in.requests().iter().all(|request| request.method == "GET"));
}

#[test]
fn what_ovh_began_by_itself_and_ended_is_asked_for() {
    let (peer, parts) = ovh_mitigation();
    let mut rig = Rig::with("vac", parts);
    peer.stand_in.with(|ovh| ovh.begin_by_itself(VICTIM));
    assert_eq!(rig.look(true), Standing::Present);
    assert_eq!(rig.acts(), Vec::<String>::new());
    peer.stand_in.with(|ovh| ovh.mitigate(VICTIM, false));
    let seen = rig.history(|standing| *standing == Standing::Present);
    assert!(!seen.contains(&Standing::TakenBack), "{seen:?}");
    assert_eq!(rig.acts(), ["divert", "ok"]);
    rig.until_gone();
    peer.stand_in.with(|ovh| assert!(!ovh.mitigated(VICTIM)));
}
