//! V19: a month of ordinary traffic.

use anyhow::Result;

use super::{
    Finding,
    world::{Dice, Kind, SECOND, World, opened},
};

const DAYS: u64 = 30;
const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;

/// Days, weeks, bursts, releases, backups and scans. The same for every run.
struct Life {
    dice: Dice,
    /// Slow noise on a logarithmic scale, renewed every minute.
    noise: f64,
    /// Bursts of the present day: when, how long, how high.
    bursts: Vec<(f64, f64, f64)>,
    /// Scans: when.
    scans: Vec<f64>,
    /// When tonight's backup begins.
    backup: f64,
    day: u64,
}

impl Life {
    fn new() -> Self {
        let mut life =
            Self { dice: Dice::new(19), noise: 0.0, bursts: Vec::new(), scans: Vec::new(), backup: 0.0, day: u64::MAX };
        life.dawn(0);
        life
    }

    fn dawn(&mut self, day: u64) {
        if self.day == day {
            return;
        }
        self.day = day;
        let start = day as f64 * DAY;
        let bursts = self.dice.count(4.0);
        self.bursts = (0..bursts)
            .map(|_| {
                let at = start + DAY * self.dice.unit();
                (at, 120.0 + 780.0 * self.dice.unit(), 1.5 + 2.0 * self.dice.unit())
            })
            .collect();
        self.scans = (0..self.dice.count(2.0)).map(|_| start + DAY * self.dice.unit()).collect();
        self.backup = start + 2.0 * HOUR + 1200.0 * (self.dice.unit() - 0.5);
    }

    /// Returns how many times the mean of people there are.
    fn people(&mut self, at: f64) -> f64 {
        let day = (at / DAY) as u64;
        self.dawn(day);
        if (at as u64).is_multiple_of(60) {
            self.noise = 0.9 * self.noise + 0.06 * self.dice.normal();
        }
        let hour = (at % DAY) / HOUR;
        let daily = 1.0 + 0.85 * ((hour - 9.0) / 24.0 * std::f64::consts::TAU).sin();
        let weekly = if day % 7 >= 5 { 0.55 } else { 1.0 };
        let burst = self.bursts.iter().map(|(start, length, high)| bump(at, *start, *length, 30.0, *high));
        // A release on the second day of every week at ten: four times the people for two hours.
        let release = bump(at, day as f64 * DAY + 10.0 * HOUR, 2.0 * HOUR, 900.0, if day % 7 == 1 { 4.0 } else { 1.0 });
        daily * weekly * self.noise.exp() * burst.fold(release, f64::max)
    }

    fn is_scan(&self, at: f64) -> bool {
        self.scans.iter().any(|start| (0.0..60.0).contains(&(at - start)))
    }

    fn is_backup(&self, at: f64) -> bool {
        (0.0..2400.0).contains(&(at - self.backup))
    }
}

/// 1, and `high` for a while, with a rise and a fall.
fn bump(at: f64, start: f64, length: f64, edge: f64, high: f64) -> f64 {
    let inside = (at - start).min(start + length - at);
    1.0 + (high - 1.0) * (inside / edge).clamp(0.0, 1.0)
}

/// Thirty days; the week's worst counts.
pub(super) fn run() -> Result<Finding> {
    let (mut world, mut life) = (World::new(19, SECOND, 600), Life::new());
    let mut people = Kind::new("short_visits")?.returning(4000, 0.7, &mut world.dice);
    let mut answers = Kind::new("dns_answers_elsewhere")?.steady();
    let mut tunnel = Kind::new("openvpn_tunnel")?.steady();
    let mut backup = Kind::new("backup_upload")?.steady();
    let mut noise = Kind::new("internet_noise")?;
    let mut scan = Kind::new("port_scan")?.steady();
    let mut weeks = vec![0; DAYS.div_ceil(7) as usize];
    let mut lines = Vec::new();
    for second in 0..DAYS * 86_400 {
        let at = second as f64;
        let level = life.people(at);
        let crowd = people.flows(700.0 * level);
        world.add(&mut people, crowd);
        let rate = answers.flows(40.0 + 20.0 * level);
        world.add(&mut answers, rate);
        let rate = tunnel.flows(150.0 * level.min(2.0));
        world.add(&mut tunnel, rate);
        if life.is_backup(at) {
            let rate = backup.flows(6000.0);
            world.add(&mut backup, rate);
        } else {
            backup.begin();
        }
        world.add(&mut noise, 2.0);
        if life.is_scan(at) {
            let rate = scan.flows(300.0);
            world.add(&mut scan, rate);
        }
        let events = world.tick();
        let count = opened(&events);
        if count > 0 {
            weeks[(second / (7 * 86_400)) as usize] += count;
            let told = world.decider.incidents().next_back().map(|incident| {
                incident.findings.iter().map(|finding| finding.evidence.line.as_str()).collect::<Vec<_>>().join("; ")
            });
            lines.push(format!("day {:.2}: {}", at / DAY, told.unwrap_or_default()));
        }
    }
    let control = world.sees_a_flood()?;
    let worst = weeks.iter().copied().max().unwrap_or(0);
    let total: usize = weeks.iter().sum();
    lines.insert(0, format!("false incidents by week: {weeks:?}"));
    lines.truncate(40);
    Ok(Finding {
        id: "V19".into(),
        name: "month".into(),
        about: "30 days, ticks of 1 s: people with a daily and a weekly rhythm, bursts, releases every week, backups \
                every night, scans, a tunnel and DNS answers."
            .into(),
        holds: worst <= 1 && control,
        summary: format!(
            "{total} false incidents in {DAYS} days, at most {worst} in a week; a flood afterwards is {}",
            if control { "seen" } else { "not seen: this proves nothing" }
        ),
        lines,
    })
}
