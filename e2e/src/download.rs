//! Downloads over HTTP: bytes, and whether all that were promised came.

use crate::http::Http;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer whose body is read by the caller.
#[derive(Debug)]
pub struct Download {
    /// Its status.
    pub status: u16,
    /// Its header fields, names in lower case.
    pub headers: BTreeMap<String, String>,
    stream: BufReader<TcpStream>,
    taken: usize,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Downloaded {
    /// Its status.
    pub status: u16,
    /// Its header fields, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// What came, but for what was taken before.
    pub bytes: Vec<u8>,
    /// That is as much as was promised.
    pub complete: bool,
}

impl Http {
    /// Asks, and reads the head of the answer.
    ///
    /// # Panics
    /// When there is none.
    pub fn download(&self, request: &str, headers: &[&str]) -> Download {
        let mut stream = TcpStream::connect(self.0).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut head = format!("{request} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.0);
        headers.iter().for_each(|header| head += &format!("{header}\r\n"));
        stream.write_all(format!("{head}\r\n").as_bytes()).expect("a request");
        let mut stream = BufReader::new(stream);
        let mut line = || {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap_or_else(|e| panic!("{request}: {e}"));
            line.trim_end().to_owned()
        };
        let status = line();
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("{request}: no status"));
        let mut headers = BTreeMap::new();
        while let Some((name, value)) = line().split_once(": ") {
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        Download { status, headers, stream, taken: 0 }
    }

    /// Asks, and reads all of the answer.
    ///
    /// # Panics
    /// When there is none.
    pub fn read(&self, request: &str, headers: &[&str]) -> Downloaded {
        self.download(request, headers).rest()
    }
}

impl Download {
    /// The next bytes of the body.
    ///
    /// # Panics
    /// When they do not come.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).expect("bytes in time");
        self.taken += count;
        bytes
    }

    /// The hash and the length of what comes of the body.
    pub fn hash(mut self) -> (String, u64) {
        let (mut hasher, mut block, mut length) = (Sha256::new(), vec![0; 1 << 20], 0);
        // A connection that was cut off is an end as well.
        while let Ok(read @ 1..) = self.stream.read(&mut block) {
            hasher.update(&block[..read]);
            length += read as u64;
        }
        (hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), length)
    }

    /// What is left of it.
    pub fn rest(mut self) -> Downloaded {
        let mut bytes = Vec::new();
        // A connection that was cut off is an end as well.
        let ended = self.stream.read_to_end(&mut bytes).is_ok();
        let promised = self.headers.get("content-length").and_then(|length| length.parse().ok());
        let complete = ended && promised.is_none_or(|promised: usize| promised == self.taken + bytes.len());
        Downloaded { status: self.status, headers: self.headers, bytes, complete }
    }
}
