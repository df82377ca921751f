//! A client of the processes' HTTP, as small as it can be, and a reader of their metrics.

use crate::{node::Node, node::Role, wait::SOON, wait::wait_for};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its header fields, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    /// The reasons of `/readyz`, by name.
    pub fn reasons(&self) -> Vec<String> {
        let json = self.json();
        let reasons = json["reasons"].as_array().unwrap_or_else(|| panic!("no reasons in {self:?}"));
        reasons.iter().map(|reason| reason["reason"].as_str().expect("a name").to_owned()).collect()
    }
}

/// The HTTP of one process.
#[derive(Clone, Copy, Debug)]
pub struct Http(pub SocketAddr);

impl Http {
    /// Starts a process of a node with HTTP on a free port of loopback, and waits until it answers.
    pub fn start(node: &mut Node, role: Role, arguments: &[&str]) -> Self {
        let http = Self(SocketAddr::from(([127, 0, 0, 1], crate::free_port())));
        node.start_with(role, &[&["--http", &http.0.to_string()], arguments].concat());
        http.wait_listening();
        http
    }

    /// Waits until it answers.
    pub fn wait_listening(&self) {
        wait_for(SOON, "an answer over HTTP", || self.try_ask("GET /healthz", &[]).map(drop));
    }

    /// One request on a connection of its own.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[])
    }

    /// The same with another method, and header fields.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn ask(&self, request: &str, headers: &[&str]) -> Answer {
        self.try_ask(request, headers).unwrap_or_else(|e| panic!("{request}: {e}"))
    }

    /// The same where the answer may take longer.
    ///
    /// # Panics
    /// When there is none within `limit`.
    pub fn ask_within(&self, limit: Duration, request: &str) -> Answer {
        self.try_ask_within(limit, request, &[]).unwrap_or_else(|e| panic!("{request}: {e}"))
    }

    /// Follows server-sent events. What the answer begins with is read, the rest by [`Live::take`].
    ///
    /// # Panics
    /// When there is no answer, or another than 200.
    pub fn follow(&self, path: &str, headers: &[&str]) -> Live {
        let mut stream = TcpStream::connect(self.0).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        // An answer to HTTP/1.0 is not cut into chunks.
        let mut head = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n", self.0);
        headers.iter().for_each(|header| head += &format!("{header}\r\n"));
        stream.write_all(format!("{head}\r\n").as_bytes()).expect("a request");
        let mut live = Live(BufReader::new(stream));
        let status = live.line().expect("a status");
        assert!(status.contains(" 200 "), "{status}");
        while !live.line().expect("a header").is_empty() {}
        live
    }

    /// A request with a body.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn send(&self, request: &str, headers: &[&str], body: &[u8]) -> Answer {
        let length = format!("Content-Length: {}", body.len());
        let mut sending = self.begin(request, &[&[length.as_str()], headers].concat());
        sending.send(body);
        sending.answer()
    }

    /// The head of a request with a body.
    ///
    /// # Panics
    /// When nobody listens.
    pub fn begin(&self, request: &str, headers: &[&str]) -> Sending {
        let mut stream = TcpStream::connect(self.0).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut head = format!("{request} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|header| header.starts_with("Host:")) {
            head += &format!("Host: {}\r\n", self.0);
        }
        headers.iter().for_each(|header| head += &format!("{header}\r\n"));
        stream.write_all(format!("{head}\r\n").as_bytes()).expect("a request");
        Sending(stream)
    }

    /// One request on a connection of its own; why there is no answer.
    pub fn try_ask(&self, request: &str, headers: &[&str]) -> Result<Answer, String> {
        self.try_ask_within(PATIENCE, request, headers)
    }

    fn try_ask_within(&self, limit: Duration, request: &str, headers: &[&str]) -> Result<Answer, String> {
        let text = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(self.0).map_err(text)?;
        stream.set_read_timeout(Some(limit)).map_err(text)?;
        let mut head = format!("{request} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.0);
        headers.iter().for_each(|header| head += &format!("{header}\r\n"));
        stream.write_all(format!("{head}\r\n").as_bytes()).map_err(text)?;
        read(stream)
    }

    /// Its metrics now.
    pub fn metrics(&self) -> Samples {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.headers["content-type"].starts_with("application/openmetrics-text"), "{answer:?}");
        Samples::read(&answer.body)
    }

    /// Waits until `/readyz` gives just these reasons, with this status.
    pub fn wait_reasons(&self, limit: Duration, status: u16, reasons: &[&str]) -> Answer {
        wait_for(limit, &format!("/readyz to say {status} {reasons:?}"), || {
            let answer = self.get("/readyz");
            let same = answer.status == status && answer.reasons() == reasons;
            if same { Ok(answer) } else { Err(format!("{answer:?}")) }
        })
    }
}

/// A request whose body is being sent; dropped, its client has gone.
pub struct Sending(TcpStream);

impl Sending {
    /// Sends a part of the body. A server that does not want it is no failure: its answer says why.
    pub fn send(&mut self, part: &[u8]) {
        let _ = self.0.write_all(part);
    }

    /// That was all of the body, or more than the server wants.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn answer(self) -> Answer {
        self.answer_within(PATIENCE)
    }

    /// The same where the answer may take longer.
    ///
    /// # Panics
    /// When there is none within `limit`.
    pub fn answer_within(self, limit: Duration) -> Answer {
        self.0.set_read_timeout(Some(limit)).expect("set");
        read(self.0).unwrap_or_else(|e| panic!("no answer: {e}"))
    }
}

fn read(mut stream: TcpStream) -> Result<Answer, String> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no head")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or("no status")?;
    let fields = lines.filter_map(|line| line.split_once(": "));
    let headers = fields.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    Ok(Answer { status, headers, body: body.to_owned() })
}

/// Server-sent events that are being followed.
pub struct Live(BufReader<TcpStream>);

/// One of them.
#[derive(Debug)]
pub struct LiveEvent {
    /// Its name, where it has one.
    pub event: Option<String>,
    /// Its version.
    pub id: Option<u64>,
    /// What it says.
    pub data: serde_json::Value,
}

impl Live {
    /// The next one; `None`: the stream has ended.
    ///
    /// # Panics
    /// When nothing comes for 10 s.
    pub fn take(&mut self) -> Option<LiveEvent> {
        let mut fields = BTreeMap::new();
        loop {
            let line = self.line()?;
            match line.split_once(": ") {
                Some((name, value)) => _ = fields.insert(name.to_owned(), value.to_owned()),
                // The end of one that says something; others are about the stream itself.
                None if line.is_empty() && fields.contains_key("data") => break,
                None => fields.clear(),
            }
        }
        let data = serde_json::from_str(&fields["data"]).expect("JSON");
        let id = fields.get("id").map(|id| id.parse().expect("a version"));
        Some(LiveEvent { event: fields.remove("event"), id, data })
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.0.read_line(&mut line).expect("a line in time");
        (length > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// What another program's HTTP on this machine answers, in one piece: a server may not cut an answer to HTTP/1.0 into chunks.
pub fn fetch(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// Metrics as they were scraped: each sample's name with its labels, as it stands there, and its value.
#[derive(Debug)]
pub struct Samples(pub BTreeMap<String, f64>);

impl Samples {
    /// Reads the OpenMetrics text format, strictly.
    ///
    /// # Panics
    /// At whatever is not of that format: a sample whose metric has no type and help before it, a number that is none, an end that is missing.
    pub fn read(text: &str) -> Self {
        let (mut samples, mut typed, mut helped) = (BTreeMap::new(), Vec::new(), Vec::new());
        let body = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("it does not end with EOF: {text}"));
        for line in body.lines() {
            let mut words = line.splitn(4, ' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("#"), Some("HELP"), Some(name), Some(_)) => helped.push(name.to_owned()),
                (Some("#"), Some("TYPE"), Some(name), Some(_)) => typed.push(name.to_owned()),
                _ => {
                    let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
                    let stem = name.split('{').next().expect("a first part");
                    let known = |names: &[String]| names.iter().any(|known| stem.starts_with(known.as_str()));
                    assert!(known(&typed) && known(&helped), "{line} has no type or help");
                    let value: f64 = value.parse().unwrap_or_else(|e| panic!("{e} in {line}"));
                    assert!(samples.insert(name.to_owned(), value).is_none(), "{name} twice");
                }
            }
        }
        Self(samples)
    }

    /// One sample.
    ///
    /// # Panics
    /// When there is none.
    pub fn of(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}
