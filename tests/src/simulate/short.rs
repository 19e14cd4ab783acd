//! V5, V8 and V16: what takes minutes, but more packets than replay has time for.

use anyhow::Result;
use ftagent_common::TrafficClass;

use super::{
    Finding,
    world::{Kind, SECOND, World, opened},
};

const TICK: u64 = SECOND / 10;
const TICKS: f64 = 10.0;

/// V5: every growth, smooth and in steps, must be seen before four times the first threshold.
pub(super) fn ramps() -> Result<Finding> {
    const GROWTHS: [f64; 9] = [1.05, 1.1, 1.2, 1.35, 1.5, 2.0, 2.5, 2.9, 3.0];
    let (mut lines, mut missed) = (Vec::new(), 0);
    for stairs in [false, true] {
        for growth in GROWTHS {
            let (seen_at, threshold) = ramp(growth, stairs)?;
            let multiple = seen_at / threshold;
            missed += usize::from(multiple >= 4.0);
            let shape = if stairs { "stairs" } else { "smooth" };
            let seen = if multiple.is_finite() {
                format!("seen at {multiple:.2} times")
            } else {
                "not seen below 8 times".into()
            };
            lines.push(format!("{shape} ×{growth:<4} every 10 s: {seen} the first threshold of {threshold:.0} pps"));
        }
    }
    Ok(Finding {
        id: "V5".into(),
        name: "ramps".into(),
        about:
            "Forged SYNs that grow, beside people; ticks of 100 ms. The rate is that of the class when the incident \
                opens."
                .into(),
        holds: missed == 0,
        summary: format!("{} of {} ramps seen before 4 times the first threshold", lines.len() - missed, lines.len()),
        lines,
    })
}

/// Returns the rate of SYNs when the incident opened, or infinity, and the first threshold.
fn ramp(growth: f64, stairs: bool) -> Result<(f64, f64)> {
    let mut world = World::new(5, TICK, 30);
    let mut people = Kind::new("flash_crowd")?.returning(2000, 0.6, &mut world.dice);
    let mut flood = Kind::new("mirai_syn")?;
    let rate = people.flows(800.0);
    for _ in 0..1200 {
        world.add(&mut people, rate);
        world.tick();
    }
    let syn = TrafficClass::TcpSyn;
    let (threshold, _) = world.bounds(syn);
    let own = rate * people.per_flow(syn);
    let mut tick = 0.0;
    loop {
        let tens = tick / TICKS / 10.0;
        let pps = 20.0 * growth.powf(if stairs { f64::floor(tens) } else { tens });
        if pps + own > 8.0 * threshold {
            return Ok((f64::INFINITY, threshold));
        }
        world.add(&mut people, rate);
        world.add(&mut flood, pps);
        if opened(&world.tick()) > 0 {
            return Ok((pps + own, threshold));
        }
        tick += 1.0;
    }
}

/// V8: started under 20 000 packets a second of ordinary traffic.
pub(super) fn cold() -> Result<Finding> {
    let mut world = World::new(8, TICK, 30);
    let mut people = Kind::new("flash_crowd")?.returning(8000, 0.6, &mut world.dice);
    let mut tunnel = Kind::new("wireguard_tunnel")?.steady();
    let mut upload = Kind::new("speed_test")?.steady();
    let mut incidents = 0;
    let mut lines = Vec::new();
    for _ in 0..6000 {
        for (kind, pps) in [(&mut people, 12_000.0), (&mut tunnel, 3000.0), (&mut upload, 5000.0)] {
            let rate = kind.flows(pps);
            world.add(kind, rate);
        }
        incidents += opened(&world.tick());
    }
    for incident in world.decider.incidents() {
        let opened = incident.opened.mono_ns as f64 / SECOND as f64;
        let told =
            incident.findings.iter().map(|finding| finding.evidence.line.as_str()).collect::<Vec<_>>().join("; ");
        lines.push(format!("at {opened:.1} s: {told}"));
    }
    let control = world.sees_a_flood()?;
    Ok(Finding {
        id: "V8".into(),
        name: "cold".into(),
        about: "Ten minutes from a cold start, ticks of 100 ms: people, a tunnel and an upload.".into(),
        holds: incidents == 0 && control,
        summary: format!(
            "{incidents} incidents in 10 minutes from a cold start under 20 000 packets a second; a flood afterwards is seen: {control}"
        ),
        lines,
    })
}

/// V16: ten times the clients in 20 s, most of them new.
pub(super) fn crowd() -> Result<Finding> {
    let mut world = World::new(16, TICK, 30);
    let mut people = Kind::new("flash_crowd")?.returning(3000, 0.5, &mut world.dice);
    let (mut incidents, mut notices) = (0, 0);
    let usual = people.flows(1000.0);
    for tick in 0..6000 {
        let rise = ((f64::from(tick) / TICKS - 120.0) / 20.0).clamp(0.0, 1.0);
        world.add(&mut people, usual * 10_f64.powf(rise));
        let events = world.tick();
        incidents += opened(&events);
        notices += usize::from(!events.is_empty());
    }
    let grave = world.decider.incidents().filter(|incident| incident.severity.as_str() != "info").count();
    let lines = world.decider.incidents().map(|i| format!("{} {}", i.vector.as_str(), i.severity.as_str())).collect();
    let control = world.sees_a_flood()?;
    Ok(Finding {
        id: "V16".into(),
        name: "crowd".into(),
        about: "Two minutes of people, then ten times as many within 20 s, for eight minutes; ticks of 100 ms.".into(),
        holds: grave == 0 && control,
        summary: format!(
            "{incidents} incidents, {grave} of them above `info`; {notices} events; a flood afterwards is seen: {control}"
        ),
        lines,
    })
}
