//! The contract of blob stores, kept by those that are not the broker's: an S3 server, and a folder that nodes share.

use common::{
    blobs::{
        BlobStore, Location, ObjectBlobs,
        contract::{self, Harm, Tamper},
        objects::MarkError,
    },
    hash::ContentHash,
    names::MirrorName,
};
use e2e::{S3, blobs_in};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

const CHUNK: usize = 256 * 1024;

/// Reaches past a store, into the folder where its objects are files.
struct Foe {
    location: Location,
    environment: Vec<(String, String)>,
    folder: PathBuf,
}

impl Foe {
    fn new(location: String, environment: &[(String, PathBuf)], folder: PathBuf) -> Self {
        let text = |(name, value): &(String, PathBuf)| (name.clone(), value.to_string_lossy().into_owned());
        let environment = environment.iter().map(text).collect();
        Self { location: location.parse().unwrap(), environment, folder }
    }

    fn open(&self) -> ObjectBlobs {
        ObjectBlobs::open(&self.location, self.environment.iter().cloned(), CHUNK).unwrap()
    }

    fn file(&self, hash: ContentHash) -> PathBuf {
        let name = hash.to_string();
        self.folder.join("blobs").join(&name[..2]).join(name)
    }

    async fn made(self) -> (ObjectBlobs, Self) {
        let store = self.open();
        store.claim(&mirror(), None).await.expect("an empty store");
        (store, self)
    }
}

impl Tamper<ObjectBlobs> for Foe {
    async fn other(&self) -> ObjectBlobs {
        self.open()
    }

    async fn harm(&self, hash: ContentHash, harm: Harm) {
        let file = self.file(hash);
        let mut bytes = fs::read(&file).expect("a blob");
        match harm {
            Harm::LoseChunk => bytes.truncate(bytes.len().saturating_sub(CHUNK)),
            Harm::AddChunk => bytes.extend(b"one too many"),
            Harm::SpoilChunk => {
                bytes.truncate(CHUNK);
                bytes[0] ^= 1;
            }
            Harm::LoseName | Harm::Delete => return fs::remove_file(&file).expect("removed"),
        }
        fs::write(&file, bytes).expect("written");
    }

    async fn put_foreign(&self, hash: ContentHash, bytes: &[u8], _chunk: usize) {
        fs::create_dir_all(self.file(hash).parent().unwrap()).unwrap();
        fs::write(self.file(hash), bytes).unwrap();
    }

    async fn chunks(&self) -> Option<u64> {
        None
    }

    async fn readers(&self) -> u64 {
        // What is left of uploads: the server's own folder, and the names that are written before they are renamed.
        let staged = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().count() as u64;
        let bucket = self.folder.parent().unwrap();
        staged(&bucket.join(".sgwtmp").join("multipart"))
    }
}

/// Another mirror keeps its blobs there.
pub fn claim_for_another(url: &str, environment: &[(String, PathBuf)]) {
    let store = Foe::new(url.into(), environment, PathBuf::new()).open();
    in_runtime(async { store.claim(&"other".parse().unwrap(), None).await.expect("an empty store") });
}

fn mirror() -> MirrorName {
    "media".parse().unwrap()
}

fn fresh_prefix() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("store{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn in_runtime<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
}

#[test]
fn blobs_on_an_s3_server_keep_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = S3::started(dir.path());
    let make = async || {
        let prefix = fresh_prefix();
        Foe::new(s3.url(&prefix), &s3.environment(), s3.folder(&prefix)).made().await
    };
    in_runtime(contract::suite(make));
}

#[test]
fn blobs_in_a_folder_keep_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let make = async || {
        let folder = dir.path().join(fresh_prefix());
        fs::create_dir(&folder).unwrap();
        Foe::new(format!("file://{}", folder.display()), &[], folder).made().await
    };
    in_runtime(contract::suite(make));
}

#[test]
fn a_store_is_one_mirrors_and_one_that_is_not_mounted_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = S3::started(dir.path());
    let shared = dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let file = Foe::new(format!("file://{}", shared.display()), &[], shared.clone());
    let foes = [Foe::new(s3.url("a"), &s3.environment(), s3.folder("a")), file];
    in_runtime(async {
        for foe in foes {
            let store = foe.open();
            let (ours, theirs) = (mirror(), "other".parse().unwrap());
            assert!(matches!(store.check(Some(&ours), None).await, Err(MarkError::None(_))));
            let id = store.claim(&ours, None).await.expect("an empty store");
            assert_eq!(store.claim(&ours, None).await.expect("ours already"), id);
            assert_eq!(store.check(Some(&ours), Some(&id)).await.expect("ours"), id);
            for (mirror, id) in [(&theirs, None), (&ours, Some("0123456789abcdef"))] {
                let refused = store.claim(mirror, id).await.expect_err("another's");
                assert!(matches!(&refused, MarkError::Another { .. }), "{refused}");
                assert!(refused.to_string().contains("another mirror (media)"), "{refused}");
            }
        }
        let store = Foe::new(format!("file://{}", shared.display()), &[], shared.clone()).open();
        fs::rename(&shared, dir.path().join("elsewhere")).unwrap();
        for _ in 0..2 {
            // An empty folder, where something is mounted at other times.
            let error =
                store.put(ContentHash::of(b"x"), b"x".as_slice().into()).await.expect_err("not mounted");
            assert!(error.is_store_away() && error.to_string().contains("not mounted"), "{error}");
            let refused = store.claim(&mirror(), None).await.err();
            assert_eq!(matches!(refused, Some(MarkError::NoFolder(_))), !shared.exists(), "{refused:?}");
            let _ = fs::remove_dir_all(&shared);
            fs::create_dir(&shared).unwrap();
        }
        assert!(blobs_in(&shared).is_empty());
    });
}
