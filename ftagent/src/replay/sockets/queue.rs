//! The half-open requests of a listener: a SYN is answered by a cookie only once there is no room for
//! another (`tcp_conn_request` in net/ipv4/tcp_input.c, `net.ipv4.tcp_syncookies` 1).

use std::collections::{BTreeSet, HashMap};

use super::{Ends, SECOND};

/// Half-open requests that a listener has room for: the smaller of its backlog and
/// `net.core.somaxconn`. nginx, Apache and Node ask for 511.
pub const BACKLOG: usize = 511;
/// SYN-ACKs that are sent again before a request is given up: `net.ipv4.tcp_synack_retries`.
const RETRIES: u32 = 5;
/// The fewest of them that a crowded queue waits for.
const FEWEST: u32 = 2;
/// The first of them comes after so long; each further one takes twice as long.
const FIRST_NS: u64 = SECOND;

/// The requests of one listener.
#[derive(Debug, Default)]
pub struct Queue {
    /// By its ends: when a request's SYN-ACK is due again, and how often it was.
    waiting: HashMap<Ends, (u64, u32)>,
    /// The same, by time.
    due: BTreeSet<(u64, Ends)>,
    /// Requests whose SYN-ACK was sent once only.
    young: usize,
}

impl Queue {
    /// Returns whether there is no room for another request.
    pub fn is_full(&mut self, now_ns: u64) -> bool {
        self.expire(now_ns);
        self.waiting.len() >= BACKLOG
    }

    /// Takes in a request; one that is there already stays as it is.
    pub fn ask(&mut self, ends: Ends, now_ns: u64) {
        if self.is_full(now_ns) || self.waiting.contains_key(&ends) {
            return;
        }
        self.waiting.insert(ends, (now_ns + FIRST_NS, 0));
        self.due.insert((now_ns + FIRST_NS, ends));
        self.young += 1;
    }

    /// Forgets a request: it became a connection, or was reset.
    pub fn forget(&mut self, ends: &Ends) {
        if let Some((due_ns, sent)) = self.waiting.remove(ends) {
            self.due.remove(&(due_ns, *ends));
            self.young -= usize::from(sent == 0);
        }
    }

    /// Returns whether a request waits.
    #[cfg(test)]
    pub fn holds(&self, ends: &Ends) -> bool {
        self.waiting.contains_key(ends)
    }

    /// Lets time pass: as `reqsk_timer_handler` in net/ipv4/inet_connection_sock.c.
    fn expire(&mut self, now_ns: u64) {
        while let Some((due_ns, ends)) = self.due.first().copied().filter(|(due_ns, _)| *due_ns <= now_ns) {
            let patience = self.patience();
            let Some((_, sent)) = self.waiting.get(&ends).copied() else { break };
            if sent >= patience {
                self.forget(&ends);
                continue;
            }
            self.young -= usize::from(sent == 0);
            let next_ns = due_ns + (FIRST_NS << (sent + 1));
            self.due.remove(&(due_ns, ends));
            self.due.insert((next_ns, ends));
            self.waiting.insert(ends, (next_ns, sent + 1));
        }
    }

    /// Returns how many SYN-ACKs a request has: fewer in a queue that is more than half full of old ones.
    fn patience(&self) -> u32 {
        let (all, mut young) = (self.waiting.len(), self.young * 2);
        let mut patience = RETRIES;
        if all * 2 > BACKLOG.max(8) {
            while patience > FEWEST && all >= young {
                patience -= 1;
                young *= 2;
            }
        }
        patience
    }
}
