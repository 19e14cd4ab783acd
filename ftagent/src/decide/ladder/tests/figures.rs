//! What is promised in numbers, as simulations.

use super::*;

#[test]
fn a_ramp_slower_than_a_rung_never_fills_the_uplink() {
    // Planes, what they are, how long they take, seconds to three times the capacity; the growth: a line, or doubling.
    let cases: [(&str, Kind, u64, u64); 5] = [
        ("flowspec", Kind::Filter, 1_000, 25),
        ("flowspec", Kind::Filter, 10_000, 75),
        ("rtbh", Kind::BlackHole, 1_000, 25),
        ("cloud", Kind::Scrub, 60_000, 300),
        ("cloud", Kind::Scrub, 300_000, 1_500),
    ];
    for doubling in [false, true] {
        for (name, kind, activation_ms, ramp_s) in cases {
            let mut policy = policy(&[(name, kind)], &[name]);
            policy.rungs.retain(|rung| rung.name == name);
            policy.rungs[0].activation_ms = activation_ms;
            let mut run = Run::new(policy, &[(name, Plane::Obeys(activation_ms))], vec![rule(1.0)]);
            let ramp = |ms: u64| {
                let part = ms as f64 / 1e3 / ramp_s as f64;
                let part = part.min(1.0);
                // From a hundredth of the capacity on.
                if doubling { 0.01 * libm::pow(300.0, part) } else { 3.0 * part }
            };
            run.go((ramp_s + 30) * 1000, |ms| ramp(ms) * CAPACITY);
            // Seconds from where the attack is worth a look to a full uplink.
            println!(
                "{} to 300 % in {ramp_s} s, {name} takes {} s: full for {:.1} s",
                if doubling { "doubling" } else { "a line" },
                activation_ms / 1000,
                run.world.full_ms as f64 / 1e3
            );
            assert_eq!(run.world.full_ms, 0, "{name} {ramp_s} s\n{}", run.told());
        }
    }
}

/// Minutes in a black hole, and those of them in which the uplink would have carried everything.
struct Holes {
    all: f64,
    unneeded: f64,
    full: f64,
}

/// An attack: bits a second in capacities, minutes, and the share that filters upstream can say.
type Shape = (f64, f64, f64);

/// What is done elsewhere: a black hole at a fixed load of the victim, for a fixed time, and again.
fn fixed(threshold: f64, hold_min: f64, (size, minutes, _): Shape) -> Holes {
    let (mut all, mut unneeded, mut until, mut full) = (0.0, 0.0, -1.0, 0.0);
    let step = TICK_MS as f64 / MINUTE as f64;
    let mut at = 0.0;
    while at < minutes.max(until) {
        let load = if at < minutes { size } else { 0.0 };
        if at >= until && load >= threshold {
            until = at + hold_min;
        }
        if at < until {
            all += step;
            unneeded += if load + 0.1 < 1.0 { step } else { 0.0 };
        } else if load + 0.1 >= 1.0 {
            full += step;
        }
        at += step;
    }
    Holes { all, unneeded, full }
}

/// The ladder, with some planes.
fn climbed(planes: &[(&str, Kind)], (size, minutes, share): Shape) -> Holes {
    let obeys: Vec<(&str, Plane)> = planes.iter().map(|(name, _)| (*name, Plane::Obeys(500))).collect();
    let filters = if share > 0.0 { vec![rule(share)] } else { Vec::new() };
    let mut run = Run::new(policy(planes, &["rtbh"]), &obeys, filters);
    let (mut unneeded, lasts) = (0.0, (minutes * MINUTE as f64) as u64);
    while run.ms < lasts || run.ladder.is_awake() {
        let before = run.world.black_ms;
        let load = if run.ms < lasts { size } else { 0.0 };
        let ms = run.ms;
        run.go(TICK_MS, |_| load * CAPACITY);
        // What filters take away, where there are some, the uplink need not carry.
        let filtered = if planes.contains(&FLOWSPEC) { load * (1.0 - share) } else { load };
        if filtered + 0.1 < 1.0 {
            unneeded += (run.world.black_ms - before) as f64;
        }
        assert!(ms < lasts + 120 * MINUTE, "it never comes back\n{}", run.told());
    }
    let minute = |ms: f64| ms / MINUTE as f64;
    Holes { all: minute(run.world.black_ms as f64), unneeded: minute(unneeded), full: minute(run.world.full_ms as f64) }
}

/// Attacks as they are: most are short and do not fill the uplink, a few are long or huge; filters can say most of
/// most of them.
fn attacks() -> Vec<Shape> {
    let mut attacks = Vec::new();
    for size in [0.25, 0.4, 0.6, 1.5, 4.0, 20.0] {
        for minutes in [1.0, 3.0, 5.0, 8.0, 15.0, 40.0] {
            for share in [1.0, 0.97, 0.0] {
                attacks.push((size, minutes, share));
            }
        }
    }
    attacks
}

#[test]
fn unneeded_black_hole_minutes_are_a_tenth_of_those_of_a_fixed_hold() {
    let sum = |holes: &dyn Fn(Shape) -> Holes| {
        attacks().into_iter().map(holes).fold(Holes { all: 0.0, unneeded: 0.0, full: 0.0 }, |sum, one| Holes {
            all: sum.all + one.all,
            unneeded: sum.unneeded + one.unneeded,
            full: sum.full + one.full,
        })
    };
    // A fifth of the capacity, for half an hour: 2 of 10 Gbit/s.
    let fixed = sum(&|shape| fixed(0.2, 30.0, shape));
    let told = |what: &str, holes: &Holes| {
        println!(
            "{what}: {:.0} min in black holes, {:.0} unneeded ({:+.0} %), uplink full for {:.1} min",
            holes.all,
            holes.unneeded,
            100.0 * (holes.unneeded / fixed.unneeded - 1.0),
            holes.full
        );
    };
    println!("{} attacks", attacks().len());
    told("fixed threshold of 20 %, held 30 min", &fixed);
    let alone = sum(&|shape| climbed(&[RTBH], shape));
    told("the ladder, black holes alone", &alone);
    let both = sum(&|shape| climbed(&[FLOWSPEC, RTBH], shape));
    told("the ladder, filters first", &both);
    assert!(both.unneeded <= 0.1 * fixed.unneeded, "{} of {}", both.unneeded, fixed.unneeded);
    assert!(alone.unneeded <= 0.5 * fixed.unneeded, "{} of {}", alone.unneeded, fixed.unneeded);
}
