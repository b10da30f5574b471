//! Fetches Apache Kafka with Maven, once for each user and version.
//!
//! Apart from running it. The jars are kept outside the target directory, so that `cargo clean`
//! and a fresh clone do not fetch them again.
//!
//! # Invariants
//! * The folder of jars is complete or not there: it is filled under another name and renamed.
//! * Of several processes that want it at once, one fetches and the others wait for the lock.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::cache_folder;

/// The version of everything here; also in the folder's name.
const VERSION: &str = "4.1.0";

/// The broker, its command-line tools, and a logger that writes to standard error.
const POM: &str = "<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>deltajoin</groupId>
  <artifactId>testkit</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>VERSION</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka-tools</artifactId>
      <version>VERSION</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
";

/// A network that fails for a moment must not fail all tests.
const ATTEMPTS: usize = 3;

/// The folder of jars, fetched if it is not there.
///
/// # Panics
/// If Maven is missing or fails.
pub(super) fn jars() -> PathBuf {
    let cache = cache_folder();
    let folder = cache.join(format!("kafka-{VERSION}"));
    let lock_path = cache.join(format!("kafka-{VERSION}.lock"));
    let lock = File::create(&lock_path).expect("the cache folder can be written to");
    lock.lock()
        .expect("the cache folder's file system has locks");
    if !folder.is_dir() {
        fetch(&cache, &folder);
    }
    folder
}

fn fetch(cache: &Path, folder: &Path) {
    let unfinished = cache.join(format!("kafka-{VERSION}.unfinished"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).expect("what a killed process left can be removed");
    }
    fs::create_dir_all(&unfinished).expect("the cache folder can be written to");
    let pom = unfinished.join("pom.xml");
    fs::write(&pom, POM.replace("VERSION", VERSION)).expect("the cache folder can be written to");
    for attempt in 1..=ATTEMPTS {
        let output = Command::new("mvn")
            .args(["--quiet", "--batch-mode", "--file"])
            .arg(&pom)
            .arg("dependency:copy-dependencies")
            .args(["-DincludeScope=runtime", "-DoutputDirectory=libs"])
            .output()
            .expect("Maven is installed: see scripts/install-missing.sh");
        if output.status.success() {
            fs::rename(unfinished.join("libs"), folder).expect("both are in the cache folder");
            fs::remove_dir_all(&unfinished).expect("the folder is ours");
            return;
        }
        assert!(
            attempt < ATTEMPTS,
            "Maven could not fetch Kafka {VERSION}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// A Java program of Kafka's, with its heap in megabytes.
pub(super) fn java(jars: &Path, heap_megabytes: usize, class: &str) -> Command {
    let mut command = Command::new("java");
    command
        .arg(format!("-Xmx{heap_megabytes}m"))
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-cp")
        .arg(jars.join("*"))
        .arg(class);
    command
}

/// Runs a Java program to its end.
///
/// # Panics
/// If it fails.
pub(super) fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .expect("Java is installed: see scripts/install-missing.sh");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed:\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}
