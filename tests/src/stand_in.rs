//! An HTTP service on loopback that writes down what it is asked, and answers as it is told: what tests, the demo
//! and the benchmarks send alerts to.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When all of it was there.
    pub at: Instant,
    /// `POST`
    pub method: String,
    /// The path, with what is behind a question mark.
    pub path: String,
    /// Names in small letters, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// Returns a header, of which there must be one at most.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let first = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} is there twice");
        first
    }

    /// Returns the body, which must be JSON and be said to be.
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"));
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Status, further headers (lines), body.
    Says(u16, &'static str, String),
    /// Nothing, and the line is reset.
    Resets,
    /// Nothing for so long.
    Hangs(Duration),
}

/// Returns an answer without further headers.
pub fn says(status: u16, body: &str) -> Answer {
    Answer::Says(status, "", body.to_owned())
}

/// The service. It ends with the process.
#[derive(Debug)]
pub struct StandIn {
    /// Where it listens.
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl StandIn {
    /// Starts it in the caller's network namespace. `answer` is given the number of the request and the request.
    ///
    /// # Panics
    /// Where the system has no socket for it.
    pub fn start(answer: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listening = TcpListener::bind("127.0.0.1:0").and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = listening.unwrap_or_else(|error| panic!("no stand-in on loopback: {error}"));
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (all, answer) = (Arc::clone(&asked), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
                // A line that breaks concerns nobody but who broke it.
                thread::spawn(move || converse(stream, &all, &*answer));
            }
        });
        Self { address, asked }
    }

    /// Returns what was asked, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how often it was asked.
    pub fn count(&self) -> usize {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Returns the address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// Takes requests of one line, one after the other.
fn converse(
    stream: TcpStream,
    all: &Mutex<Vec<Asked>>,
    answer: &(impl Fn(usize, &Asked) -> Answer + ?Sized),
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(asked) = read(&mut reader)? {
        let number = {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(asked.clone());
            all.len() - 1
        };
        match answer(number, &asked) {
            // 204 has no body, and no length either.
            Answer::Says(204, headers, _) => stream.write_all(format!("HTTP/1.1 204 X\r\n{headers}\r\n").as_bytes())?,
            Answer::Says(status, headers, body) => {
                let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes())?;
            }
            Answer::Resets => return stream.shutdown(Shutdown::Both),
            Answer::Hangs(time) => thread::sleep(time),
        }
    }
    Ok(())
}

fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Asked>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(path), Some("HTTP/1.1")) = (words.next(), words.next(), words.next()) else {
        return Err(io::Error::other(format!("no request: {line}")));
    };
    let (method, path) = (method.to_owned(), path.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, length)| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok(Some(Asked { at: Instant::now(), method, path, headers, body }))
}
