//! The incidents: `incidents.jsonl` in the state directory, one JSON object a line. A line is what
//! was known of an incident when it was written; the last one of an id counts.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{damaged, replace};
use crate::decide::{Incident, machine::KEPT};

/// A file that is longer is written anew with what is kept.
const MOST_LINES: usize = 4 * KEPT;
/// As [`MOST_LINES`], in bytes.
const MOST_BYTES: u64 = 16 << 20;

/// The file.
#[derive(Debug)]
pub struct IncidentLog {
    path: PathBuf,
    lines: usize,
    bytes: u64,
    /// What is in the file is not what ought to be: write all of it.
    rewrite: bool,
}

impl IncidentLog {
    /// Reads the file: the incidents, oldest first, and what is wrong with it in words for the
    /// operator. The last line may be cut short, where the machine stopped in the middle of it.
    pub fn open(state: &Path) -> (Self, Vec<Incident>, Option<String>) {
        let path = state.join("incidents.jsonl");
        let consequence = "the list of incidents goes on with what could be read";
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) => {
                let missing = error.kind() == io::ErrorKind::NotFound;
                let told = (!missing).then(|| damaged(&path, &format!("cannot be read ({error})"), consequence));
                return (Self { path, lines: 0, bytes: 0, rewrite: true }, Vec::new(), told);
            }
        };
        let (mut order, mut latest, mut bad) = (Vec::new(), BTreeMap::new(), 0);
        let mut lines = text.split_inclusive(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            match serde_json::from_slice::<Incident>(line) {
                Ok(incident) => {
                    let id = incident.id.clone();
                    if latest.insert(id.clone(), incident).is_none() {
                        order.push(id);
                    }
                }
                Err(_) if lines.peek().is_none() && !line.ends_with(b"\n") => {}
                Err(_) => bad += 1,
            }
        }
        let told = (bad > 0).then(|| damaged(&path, &format!("has {bad} lines that make no sense"), consequence));
        let surplus = order.len().saturating_sub(KEPT);
        let incidents = order.iter().skip(surplus).filter_map(|id| latest.remove(id)).collect();
        (Self { path, lines: 0, bytes: 0, rewrite: true }, incidents, told)
    }

    /// Returns whether the file lacks something, or has more in it than it should.
    pub const fn is_behind(&self) -> bool {
        self.rewrite
    }

    /// Writes the incidents that changed; `all` are those to keep, oldest first, these included.
    ///
    /// # Errors
    /// What the file system says; the next call then writes all.
    pub fn write(&mut self, changed: &[Arc<Incident>], all: &[Arc<Incident>]) -> io::Result<()> {
        let rewrite = self.rewrite || self.lines + changed.len() > MOST_LINES || self.bytes > MOST_BYTES;
        let mut text = Vec::new();
        let written = if rewrite { &all[all.len().saturating_sub(KEPT)..] } else { changed };
        for incident in written {
            serde_json::to_writer(&mut text, incident.as_ref())?;
            text.push(b'\n');
        }
        self.rewrite = true;
        if rewrite {
            replace(&self.path, &text)?;
            (self.lines, self.bytes) = (0, 0);
        } else {
            let mut file = File::options().append(true).open(&self.path)?;
            file.write_all(&text)?;
            file.sync_data()?;
        }
        self.rewrite = false;
        self.lines += written.len();
        self.bytes += text.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Now, Vector};

    fn incident(number: usize, pps: f64) -> Arc<Incident> {
        let at = Now { mono_ns: number as u64, unix_ms: 1_700_000_000_000 };
        let id = format!("20231114T221320Z-{number}");
        Arc::new(Incident { pps, ..Incident::new(id, Vector::SynFlood, at, at) })
    }

    /// Returns the numbers and rates of what is in the file.
    fn read(dir: &Path) -> (Vec<(String, f64)>, Option<String>) {
        let (_, incidents, told) = IncidentLog::open(dir);
        let number = |id: &str| id.rsplit('-').next().unwrap_or_default().to_owned();
        (incidents.iter().map(|incident| (number(&incident.id), incident.pps)).collect(), told)
    }

    fn expected(pairs: &[(usize, f64)]) -> (Vec<(String, f64)>, Option<String>) {
        (pairs.iter().map(|(number, pps)| (number.to_string(), *pps)).collect(), None)
    }

    #[test]
    fn the_last_word_on_each_incident_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, known, told) = IncidentLog::open(dir.path());
        assert_eq!((known, told), (Vec::new(), None), "there is none yet");
        let first = [incident(1, 10.0)];
        log.write(&first, &first).unwrap();
        let both = [incident(1, 20.0), incident(2, 5.0)];
        log.write(&both, &both).unwrap();
        log.write(&both[1..], &both).unwrap();
        assert_eq!(fs::read_to_string(&log.path).unwrap().lines().count(), 4, "it is appended to");
        assert_eq!(read(dir.path()), expected(&[(1, 20.0), (2, 5.0)]));
        let (mut log, ..) = IncidentLog::open(dir.path());
        log.write(&[], &both).unwrap();
        assert_eq!(fs::read_to_string(&log.path).unwrap().lines().count(), 2, "a start tidies up");
    }

    #[test]
    fn a_line_that_was_cut_short_costs_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, ..) = IncidentLog::open(dir.path());
        let all = [incident(1, 1.0), incident(2, 2.0), incident(3, 3.0)];
        log.write(&all, &all).unwrap();
        let whole = fs::read(&log.path).unwrap();
        fs::write(&log.path, &whole[..whole.len() - 20]).unwrap();
        assert_eq!(read(dir.path()), expected(&[(1, 1.0), (2, 2.0)]));
        let text = String::from_utf8(whole).unwrap().replacen("syn_flood", "\u{1}", 1);
        fs::write(&log.path, text).unwrap();
        let (incidents, told) = read(dir.path());
        assert_eq!(incidents, expected(&[(2, 2.0), (3, 3.0)]).0);
        let told = told.unwrap();
        assert!(told.contains("has 1 lines that make no sense") && told.contains("incidents.jsonl.bad-"), "{told}");
    }

    #[test]
    fn the_file_is_bounded_and_a_full_disk_is_overcome() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, ..) = IncidentLog::open(dir.path());
        let all: Vec<_> = (0..KEPT + 44).map(|number| incident(number, 1.0)).collect();
        log.write(&all, &all).unwrap();
        assert_eq!(read(dir.path()).0.len(), KEPT);
        assert_eq!(read(dir.path()).0[0].0, "44", "the oldest go");
        for _ in 0..2 * MOST_LINES / KEPT {
            log.write(&all[44..], &all).unwrap();
        }
        assert!(fs::read_to_string(&log.path).unwrap().lines().count() <= MOST_LINES);
        fs::remove_file(&log.path).unwrap();
        fs::create_dir(&log.path).unwrap();
        assert!(log.write(&all[..1], &all).is_err());
        fs::remove_dir(&log.path).unwrap();
        log.write(&all[..1], &all).unwrap();
        assert_eq!(read(dir.path()).0.len(), KEPT, "what could not be written is not lost");
    }
}
