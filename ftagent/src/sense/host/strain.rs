//! Whether this host suffers: packets that it lost before anybody saw them (`/proc/net/softnet_stat`,
//! net/core/net-procfs.c, and the cards' own counters), and how long its busiest CPU did nothing but take
//! packets (`/proc/stat`, fs/proc/stat.c).

use std::{collections::BTreeMap, fs, path::Path};

use super::{HostRoot, lines};
use crate::sense::signals::HostSignals;

/// What the cards lost, in `/sys/class/net/*/statistics`: no buffer was free. Drops by XDP are not in
/// it, which some drivers count as `rx_dropped`.
const LOST: [&str; 2] = ["rx_missed_errors", "rx_fifo_errors"];

/// Numbers of a CPU that are read: without what guests used, which is in them.
const TICKS: usize = 8;

/// What had been counted at a reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strain {
    /// By card, and by CPU for its backlog.
    lost: BTreeMap<String, u64>,
    /// Ticks in soft interrupts, and all ticks, by CPU.
    cpus: BTreeMap<String, (u64, u64)>,
}

impl Strain {
    /// Reads everything; what could not be read goes to `problems`.
    pub fn read(root: &HostRoot, problems: &mut Vec<String>) -> Self {
        let mut strain = Self::default();
        for (cpu, line) in lines(&root.proc.join("net/softnet_stat"), problems).enumerate() {
            // Hexadecimal: processed, dropped because the backlog was full, …
            if let Some(dropped) =
                line.split_ascii_whitespace().nth(1).and_then(|word| u64::from_str_radix(word, 16).ok())
            {
                strain.lost.insert(format!("backlog {cpu}"), dropped);
            }
        }
        for card in fs::read_dir(root.sys.join("class/net")).into_iter().flatten().flatten() {
            let lost: u64 = LOST.iter().filter_map(|name| number(&card.path().join("statistics").join(name))).sum();
            strain.lost.insert(card.file_name().to_string_lossy().into_owned(), lost);
        }
        for line in lines(&root.proc.join("stat"), problems) {
            let mut words = line.split_ascii_whitespace();
            let Some(cpu) = words.next().filter(|name| name.starts_with("cpu") && *name != "cpu") else { continue };
            // user nice system idle iowait irq softirq steal; guests are in user already.
            let ticks: Vec<u64> = words.take(TICKS).filter_map(|word| word.parse().ok()).collect();
            if let [.., softirq, _steal] = ticks[..]
                && ticks.len() == TICKS
            {
                strain.cpus.insert(cpu.to_owned(), (softirq, ticks.iter().sum()));
            }
        }
        strain
    }

    /// Puts what happened since an earlier reading into the signals.
    pub fn since(&self, earlier: &Self, signals: &mut HostSignals) {
        let lost = self.lost.iter().filter_map(|(name, now)| Some(now.saturating_sub(*earlier.lost.get(name)?)));
        signals.packets_lost = lost.sum();
        let busiest = self.cpus.iter().filter_map(|(name, (softirq, all))| {
            let (softirq_then, all_then) = earlier.cpus.get(name)?;
            let (softirq, all) = (softirq.saturating_sub(*softirq_then), all.saturating_sub(*all_then));
            (all > 0).then(|| u16::try_from(1000 * softirq.min(all) / all).unwrap_or(0))
        });
        signals.softirq_permille = busiest.max().unwrap_or(0);
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(softnet: &str, stat: &str, missed: &str) -> Strain {
        let dir = tempfile::tempdir().unwrap();
        let (proc, card) = (dir.path().join("proc"), dir.path().join("sys/class/net/eth0/statistics"));
        fs::create_dir_all(proc.join("net")).unwrap();
        fs::create_dir_all(&card).unwrap();
        fs::write(proc.join("net/softnet_stat"), softnet).unwrap();
        fs::write(proc.join("stat"), stat).unwrap();
        fs::write(card.join("rx_missed_errors"), missed).unwrap();
        Strain::read(&HostRoot::at(dir.path()), &mut Vec::new())
    }

    #[test]
    fn losses_are_summed_and_the_busiest_cpu_counts() {
        let before = read(
            "00000010 00000001 00000000\n00000020 0000000f 00000000\n",
            "cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 10 0 10 100 0 0 10 0 0 0\ncpu1 10 0 10 100 0 0 10 0 0 0\nintr 5 6\n",
            "7\n",
        );
        let after = read(
            "00000010 00000002 00000000\n00000020 00000013 00000000\n",
            "cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 10 0 10 120 0 0 10 0 0 0\ncpu1 10 0 11 101 0 0 28 0 0 0\nintr 5 6\n",
            "107\n",
        );
        let mut signals = HostSignals::default();
        after.since(&before, &mut signals);
        assert_eq!((signals.packets_lost, signals.softirq_permille), (1 + 4 + 100, 900));
        after.since(&Strain::default(), &mut signals);
        assert_eq!((signals.packets_lost, signals.softirq_permille), (0, 0), "what began before is not of now");
        before.since(&after, &mut signals);
        assert_eq!((signals.packets_lost, signals.softirq_permille), (0, 0), "counters that began anew");
    }

    #[test]
    fn nonsense_is_nothing() {
        let strain = read("x y\n\n00\n", "cpu0 1 2 x\ncpu\n", "many");
        assert_eq!(strain, Strain { lost: [("eth0".to_owned(), 0)].into(), cpus: BTreeMap::new() });
    }
}
