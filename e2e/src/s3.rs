//! An S3-compatible server of a test's own, with one bucket, and a server that has always too much to do.

use crate::{broker::free_port, process::Process, wait::SOON, wait::wait_until};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

const ACCESS: &str = "e2e";
const SECRET: &str = "e2e-secret";
/// The bucket, which is a folder of the server's.
const BUCKET: &str = "media";

/// A versitygw over a folder, running or not, on one port for its whole life.
pub struct S3 {
    dir: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl S3 {
    /// Started, and ready. `MEDIAMIRROR_S3_SERVER` names the program; without it that on the PATH is used.
    pub fn started(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("s3").join(BUCKET)).expect("make a bucket");
        let mut s3 = Self { dir: dir.to_owned(), port: free_port(), process: None };
        s3.start();
        s3
    }

    /// Starts it again, and waits until it answers.
    pub fn start(&mut self) {
        let program = std::env::var_os("MEDIAMIRROR_S3_SERVER").unwrap_or("versitygw".into());
        let mut command = Command::new(program);
        command.args(["--access", ACCESS, "--secret", SECRET, "--quiet", "--port"]);
        command.arg(format!("127.0.0.1:{}", self.port)).arg("posix").arg(self.dir.join("s3"));
        let mut process = Process::spawn("s3", &self.dir, command);
        wait_until(SOON, "an S3 server that answers", || {
            assert!(process.is_running(), "it ended (deploy/s3.sh gets one): {}", process.log());
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
        self.process = Some(process);
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.take().expect("a running S3 server").kill();
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A store in it.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// What a process needs to use it.
    pub fn environment(&self) -> Vec<(String, PathBuf)> {
        environment(self.port, ACCESS, SECRET)
    }

    /// The files of a store in it.
    pub fn folder(&self, prefix: &str) -> PathBuf {
        self.dir.join("s3").join(BUCKET).join(prefix)
    }

    /// Begins an upload in parts that nobody ends.
    pub fn begin_upload(&self, key: &str) {
        use object_store::{ObjectStoreExt, aws::AmazonS3Builder, path::Path};
        let builder =
            AmazonS3Builder::new().with_bucket_name(BUCKET).with_region("us-east-1").with_allow_http(true);
        let builder = builder.with_endpoint(format!("http://127.0.0.1:{}", self.port));
        let store =
            builder.with_access_key_id(ACCESS).with_secret_access_key(SECRET).build().expect("a client");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let mut upload = store.put_multipart(&Path::from(key)).await.expect("an upload");
            upload.put_part(b"a part".as_slice().into()).await.expect("a part");
        });
    }

    /// Content type and hash that an object has, as the server keeps them.
    pub fn head(&self, key: &str) -> (String, String) {
        let read = |name: &str| {
            let mut value = [0; 256];
            let length = rustix::fs::getxattr(self.folder(key), name, &mut value[..])
                .unwrap_or_else(|error| panic!("{name} of {key}: {error}"));
            String::from_utf8_lossy(&value[..length]).into_owned()
        };
        let metadata: serde_json::Value =
            serde_json::from_str(&read("user.metadata")).expect("metadata in JSON");
        (read("user.content-type"), metadata["sha256"].as_str().unwrap_or_default().to_owned())
    }

    /// Its blobs: name and length.
    pub fn blobs(&self, prefix: &str) -> BTreeMap<String, u64> {
        blobs_in(&self.folder(prefix))
    }
}

/// What an S3 client needs: where, and as whom.
pub fn environment(port: u16, access: &str, secret: &str) -> Vec<(String, PathBuf)> {
    let all = [
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
        ("AWS_ACCESS_KEY_ID", access.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// The blobs of a store that is a folder: name and length.
pub fn blobs_in(folder: &Path) -> BTreeMap<String, u64> {
    let read = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = read(&folder.join("blobs"));
    let files = folders.flat_map(|folder| read(&folder.path()).collect::<Vec<_>>());
    let name = |file: &fs::DirEntry| file.file_name().to_string_lossy().into_owned();
    files
        .filter(|file| !name(file).contains('#'))
        .map(|file| (name(&file), file.metadata().map_or(0, |meta| meta.len())))
        .collect()
}

/// A server that answers each request with "slow down". Returns its port; it serves as long as the test lives.
pub fn always_busy() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || answer(client));
        }
    });
    port
}

fn answer(mut client: TcpStream) {
    let body = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let _ = client.set_read_timeout(Some(Duration::from_millis(200)));
    let mut request = [0; 65_536];
    let _ = client.read(&mut request);
    let length = body.len();
    let head = format!(
        "HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    let _ = client.write_all(head.as_bytes()).and_then(|()| client.write_all(body.as_bytes()));
}
