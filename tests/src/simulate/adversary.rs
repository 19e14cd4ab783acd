//! V20: an adversary who knows the algorithm and reads the threshold, as a search.
//!
//! He adds packets to a node of people and wants the threshold of a class as high as it gets
//! without an incident. All of his plans are tried for three days; those that got furthest go on for
//! as long as the bound is stated for.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Instant,
};

use anyhow::{Result, anyhow};
use ftagent::decide::Event;
use ftagent_common::TrafficClass;

use super::{
    Finding,
    world::{Kind, SECOND, World, opened},
};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// The node is his own for so long.
const ALONE: u64 = 3 * HOUR;
const SEARCH_DAYS: u64 = 3;
const FULL_DAYS: u64 = 7 + 31;
/// Plans that are followed to the end.
const FINALISTS: usize = 2;
/// How long he hides after an incident.
const HIDE: u64 = HOUR;
/// The most that an hour's ceiling may stand over the quietest clean hour in the first week.
const MULTIPLE: f64 = 8.0;
/// The rate below which no class is ever too much.
const FLOOR: f64 = 200.0;

/// When he sends.
#[derive(Clone, Copy)]
enum When {
    Always,
    /// From eight in the morning, for so many hours a day.
    Daily(u64),
    /// One second in ten.
    Pulses,
}

/// What he aims at.
#[derive(Clone, Copy)]
enum Aim {
    /// This share of the present threshold.
    Share(f64),
    /// From half the threshold, this factor more each so many seconds.
    Stairs(f64, u64),
}

#[derive(Clone, Copy)]
struct Plan {
    name: &'static str,
    capture: &'static str,
    class: TrafficClass,
    when: When,
    aim: Aim,
}

const fn plan(name: &'static str, capture: &'static str, class: TrafficClass, when: When, aim: Aim) -> Plan {
    Plan { name, capture, class, when, aim }
}

const JUNK: (&str, TrafficClass) = ("udp_closed_port", TrafficClass::UdpMedium);
const HUMAN: (&str, TrafficClass) = ("short_visits", TrafficClass::TcpSyn);

const PLANS: [Plan; 12] = [
    plan("junk, 95 % of the threshold", JUNK.0, JUNK.1, When::Always, Aim::Share(0.95)),
    plan("junk, 80 %", JUNK.0, JUNK.1, When::Always, Aim::Share(0.8)),
    plan("junk, 95 %, 8 h a day", JUNK.0, JUNK.1, When::Daily(8), Aim::Share(0.95)),
    plan("junk, 300 % for a second in ten", JUNK.0, JUNK.1, When::Pulses, Aim::Share(3.0)),
    plan("junk, stairs ×1.1 every 10 min", JUNK.0, JUNK.1, When::Always, Aim::Stairs(1.1, 600)),
    plan("junk, stairs ×1.02 every 10 min", JUNK.0, JUNK.1, When::Always, Aim::Stairs(1.02, 600)),
    plan("handshakes, 95 %", HUMAN.0, HUMAN.1, When::Always, Aim::Share(0.95)),
    plan("handshakes, 200 %", HUMAN.0, HUMAN.1, When::Always, Aim::Share(2.0)),
    plan("handshakes, 500 %", HUMAN.0, HUMAN.1, When::Always, Aim::Share(5.0)),
    plan("handshakes, 200 %, 12 h a day", HUMAN.0, HUMAN.1, When::Daily(12), Aim::Share(2.0)),
    plan("handshakes, 500 % for a second in ten", HUMAN.0, HUMAN.1, When::Pulses, Aim::Share(5.0)),
    plan("handshakes, stairs ×1.05 every 10 min", HUMAN.0, HUMAN.1, When::Always, Aim::Stairs(1.05, 600)),
];

/// What a plan came to.
struct Course {
    plan: Plan,
    /// The threshold at the end of every hour.
    thresholds: Vec<f64>,
    /// The clean rate of the class in the quietest hour of the first week.
    quietest: f64,
    incidents: usize,
    notices: usize,
    /// Whether a plain flood is seen in the end.
    control: bool,
}

fn follow(plan: Plan, days: u64) -> Result<Course> {
    let mut world = World::new(20, SECOND, 600);
    let mut people = Kind::new("short_visits")?.returning(1000, 0.7, &mut world.dice);
    let mut calls = Kind::new("openvpn_tunnel")?.steady();
    let mut weapon = Kind::new(plan.capture)?;
    let (per_flow, clean_flow) = (weapon.per_flow(plan.class).max(1e-9), people.per_flow(plan.class));
    let mut course =
        Course { plan, thresholds: Vec::new(), quietest: f64::INFINITY, incidents: 0, notices: 0, control: false };
    let (mut hidden_until, mut stairs, mut target) = (ALONE, 0.5, 0.0);
    for second in 0..days * DAY {
        let daily = 1.0 + 0.6 * ((second % DAY) as f64 / DAY as f64 * std::f64::consts::TAU).sin();
        let (crowd, talk) = (people.flows(250.0 * daily), calls.flows(60.0 * daily));
        world.add(&mut people, crowd);
        world.add(&mut calls, talk);
        let clean = crowd * clean_flow + talk * calls.per_flow(plan.class);
        if (HOUR..7 * DAY).contains(&second) {
            course.quietest = course.quietest.min(clean);
        }
        if second % 60 == 0 {
            let (threshold, _) = world.bounds(plan.class);
            target = match plan.aim {
                Aim::Share(share) => share * threshold,
                Aim::Stairs(..) => stairs * threshold,
            };
            if second % HOUR == 0 && second > 0 {
                course.thresholds.push(threshold);
            }
        }
        if let Aim::Stairs(step, every) = plan.aim
            && second % every == 0
        {
            stairs *= step;
        }
        if second >= hidden_until && plan.when.is_now(second) {
            world.add(&mut weapon, (target - clean).max(0.0) / per_flow);
        }
        let events = world.tick();
        if opened(&events) > 0 {
            course.incidents += 1;
            (hidden_until, stairs) = (second + HIDE, 0.5);
        }
        course.notices += events.iter().filter(|event| matches!(event, Event::Notice { .. })).count();
    }
    course.control = world.sees_a_flood()?;
    Ok(course)
}

impl When {
    const fn is_now(self, second: u64) -> bool {
        match self {
            Self::Always => true,
            Self::Daily(hours) => second % DAY >= 8 * HOUR && second % DAY < (8 + hours) * HOUR,
            Self::Pulses => second.is_multiple_of(10),
        }
    }
}

impl Course {
    /// Returns the highest threshold over what the statement allows, in the first week.
    fn first_week(&self) -> f64 {
        let highest = self.thresholds.iter().take(167).copied().fold(0.0, f64::max);
        highest / self.quietest.max(FLOOR)
    }

    /// Returns the fewest hours in which the threshold grew by a factor, after the first week.
    fn hours_to(&self, factor: f64) -> Option<usize> {
        let later = self.thresholds.get(168..)?;
        let times = later
            .iter()
            .enumerate()
            .filter_map(|(start, from)| later.iter().skip(start).position(|threshold| *threshold >= factor * from));
        times.min()
    }

    fn growth(&self) -> f64 {
        let first = self.thresholds.first().copied().unwrap_or(1.0).max(1.0);
        self.thresholds.iter().copied().fold(0.0, f64::max) / first
    }

    fn line(&self) -> String {
        let hours = |factor| self.hours_to(factor).map_or("never".to_owned(), |hours| format!("{hours} h"));
        format!(
            "{:<38} {:2} days: ×{:6.2} in all, {:4.2} × the quietest hour in week 1; ×2 in {}, ×10 in {}; {} incidents, {} notices{}",
            self.plan.name,
            self.thresholds.len() / 24 + 1,
            self.growth(),
            self.first_week(),
            hours(2.0),
            hours(10.0),
            self.incidents,
            self.notices,
            if self.control { "" } else { "; A FLOOD AFTERWARDS IS NOT SEEN" }
        )
    }

    fn holds(&self) -> bool {
        let told_enough = self.hours_to(10.0).is_none() || self.notices >= 3;
        self.control
            && self.first_week() <= MULTIPLE
            && self.hours_to(2.0).is_none_or(|hours| hours >= 24)
            && self.hours_to(10.0).is_none_or(|hours| hours >= 30 * 24)
            && told_enough
    }
}

/// Follows plans side by side: each is a world of its own.
fn follow_all(plans: &[Plan], days: u64) -> Result<Vec<Course>> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<Vec<Course>> {
        let mut courses = Vec::new();
        while let Some(plan) = plans.get(next.fetch_add(1, Relaxed)) {
            let begun = Instant::now();
            let course = follow(*plan, days)?;
            eprintln!("V20: {} ({:.0} s)", course.line(), begun.elapsed().as_secs_f64());
            courses.push(course);
        }
        Ok(courses)
    };
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(plans.len());
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let mut courses = Vec::new();
        for worker in workers {
            courses.extend(worker.join().map_err(|_| anyhow!("a search panicked"))??);
        }
        Ok(courses)
    })
}

/// The search.
pub(super) fn run() -> Result<Finding> {
    let mut courses = follow_all(&PLANS, SEARCH_DAYS)?;
    courses.sort_by(|a, b| b.growth().total_cmp(&a.growth()));
    let mut lines: Vec<_> = courses.iter().map(Course::line).collect();
    let mut holds = courses.iter().all(Course::holds);
    lines.push(String::new());
    let (mut doubled, mut tenfold) = (None::<usize>, None::<usize>);
    let finalists: Vec<_> = courses.iter().take(FINALISTS).map(|course| course.plan).collect();
    for full in follow_all(&finalists, FULL_DAYS)? {
        holds &= full.holds();
        doubled = [doubled, full.hours_to(2.0)].into_iter().flatten().min();
        tenfold = [tenfold, full.hours_to(10.0)].into_iter().flatten().min();
        lines.push(full.line());
    }
    let told = |hours: Option<usize>| hours.map_or("not within the month".to_owned(), |hours| format!("{hours} h"));
    Ok(Finding {
        id: "V20".into(),
        name: "adversary".into(),
        about:
            "Twelve plans for three days, the two that raised the threshold most for 38; ticks of 1 s. He reads the \
                threshold every minute, hides for an hour after an incident, and may complete handshakes."
                .into(),
        holds,
        summary: format!("time-to-blind ×2: {}, ×10: {}", told(doubled), told(tenfold)),
        lines,
    })
}
