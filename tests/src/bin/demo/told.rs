//! What is printed of incidents, rules and the guard.

use ftagent::{
    decide::{Incident, guard::Transport, mitigate::RuleReport},
    serve::protocol::GuardStatus,
};

/// An incident has opened.
pub fn incident(incident: &Incident, after_ms: f64) {
    println!("  {after_ms:.0} ms: incident {}: {}", incident.id, incident.vector.as_str());
    incident.findings.iter().for_each(|finding| println!("    {}", finding.evidence.line));
}

/// Rules are in force.
pub fn rules(incident: &Incident, after_ms: Option<f64>) {
    let after = after_ms.map_or(String::new(), |ms| format!("{ms:.0} ms: it drops, by "));
    for RuleReport { id, matches, action, predicted, runners_up, .. } in &incident.rules {
        println!("  {after}rule {id}: {action} {matches}");
        println!(
            "    expected: {:.1} % of the attack, {:.2} % of {} clean flows",
            predicted.attack_share * 100.0,
            predicted.clean_share * 100.0,
            predicted.clean_flows
        );
        if let Some(next) = runners_up.first() {
            println!("    rather than: {} ({:.2} % of clean flows)", next.matches, next.predicted.clean_share * 100.0);
        }
    }
}

/// Classes are thinned.
pub fn thinned(incident: &Incident) {
    for (class, pps) in &incident.thinned {
        println!("  {class} is thinned to {pps:.0} packets a second beside what the guard answers: no rule is safe");
    }
}

/// The guard is armed.
pub fn guard(guard: &GuardStatus, after_ms: i64) {
    let vectors: Vec<&str> = guard.vectors.iter().map(|vector| vector.as_str()).collect();
    let cookies: Vec<String> = guard.cookies.iter().map(u16::to_string).collect();
    println!(
        "  {after_ms} ms: the guard is armed against {}: it answers SYNs to port {} with cookies",
        vectors.join(", "),
        cookies.join(", ")
    );
    for port in guard.ports.iter().filter(|port| port.transport == Transport::Tcp && port.armed) {
        println!(
            "    expected: connections to port {} are not touched: {:.1} % of {:.0} of their packets in calm had a socket",
            port.ports,
            port.found / port.asked * 100.0,
            port.asked
        );
    }
}
