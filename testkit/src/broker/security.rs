//! What a broker with TLS, passwords and access rights needs: certificates, users, ACLs.
//!
//! Apart, because most tests use a plain broker.
//!
//! # Invariants
//! * Everything lies in the broker's own folder, is made anew for each broker, and is worthless
//!   after two days.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::broker::install;

/// As whom a client signs in at a secure broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// May do everything.
    Admin,
    /// May do what a job needs: read, write and create topics, use groups and transactions.
    Job,
    /// Signs in as `Job`, with a wrong password.
    WrongPassword,
    /// Signs in, and may do nothing.
    Stranger,
}

impl Login {
    fn user(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Job | Self::WrongPassword => "job",
            Self::Stranger => "stranger",
        }
    }

    fn password(self) -> &'static str {
        match self {
            Self::Admin => "admin-secret",
            Self::Job => "job-secret",
            Self::WrongPassword => "not-the-secret",
            Self::Stranger => "stranger-secret",
        }
    }
}

/// The users that exist.
const USERS: [Login; 3] = [Login::Admin, Login::Job, Login::Stranger];

/// The certificates of one broker.
#[derive(Debug)]
pub(super) struct Security {
    /// What clients trust.
    authority: PathBuf,
    /// Key and certificates of the broker, in one file.
    keystore: PathBuf,
}

impl Security {
    /// Makes an authority, and a certificate of it for 127.0.0.1.
    ///
    /// # Panics
    /// If `openssl` is missing or fails.
    pub(super) fn make(folder: &Path) -> Self {
        let extensions = "subjectAltName=IP:127.0.0.1,DNS:localhost\n";
        fs::write(folder.join("extensions"), extensions).expect("the folder is ours");
        openssl(
            folder,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -keyout authority.key -out authority.pem -subj /CN=deltajoin-test-authority \
             -addext keyUsage=critical,keyCertSign",
        );
        openssl(
            folder,
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
             -keyout broker.key -out broker.request -subj /CN=127.0.0.1",
        );
        openssl(
            folder,
            "x509 -req -in broker.request -CA authority.pem -CAkey authority.key \
             -CAcreateserial -days 2 -extfile extensions -out broker.pem",
        );
        let mut keystore = String::new();
        for part in ["broker.key", "broker.pem", "authority.pem"] {
            let text = fs::read_to_string(folder.join(part));
            keystore += &text.expect("openssl has just written it");
        }
        let keystore_path = folder.join("keystore.pem");
        fs::write(&keystore_path, keystore).expect("the folder is ours");
        Self {
            authority: folder.join("authority.pem"),
            keystore: keystore_path,
        }
    }

    /// What the plain broker's properties lack.
    pub(super) fn server_properties(&self) -> String {
        format!(
            "sasl.enabled.mechanisms=SCRAM-SHA-512\n\
             sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512\n\
             listener.name.clients.scram-sha-512.sasl.jaas.config={}\n\
             ssl.keystore.type=PEM\n\
             ssl.keystore.location={}\n\
             ssl.truststore.type=PEM\n\
             ssl.truststore.location={}\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             super.users=User:admin;User:ANONYMOUS\n",
            jaas(Login::Admin),
            self.keystore.display(),
            self.authority.display(),
        )
    }

    /// The arguments that make the users when the storage is formatted.
    pub(super) fn format_arguments() -> Vec<String> {
        let arguments = USERS.iter().flat_map(|login| {
            let (name, password) = (login.user(), login.password());
            let user = format!("SCRAM-SHA-512=[name={name},password={password}]");
            ["--add-scram".to_owned(), user]
        });
        arguments.collect()
    }

    /// The settings of a librdkafka client.
    pub(super) fn client_properties(&self, login: Login) -> Vec<(String, String)> {
        let authority = self.authority.display().to_string();
        let properties = [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", login.user()),
            ("sasl.password", login.password()),
            ("ssl.ca.location", &authority),
        ];
        properties
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    /// The settings of a Java client, as a file.
    pub(super) fn java_properties(&self, login: Login) -> String {
        format!(
            "security.protocol=SASL_SSL\n\
             sasl.mechanism=SCRAM-SHA-512\n\
             sasl.jaas.config={}\n\
             ssl.truststore.type=PEM\n\
             ssl.truststore.location={}\n",
            jaas(login),
            self.authority.display(),
        )
    }

    /// Gives `Job` its rights.
    pub(super) fn allow_job(jars: &Path, bootstrap: &str, admin_properties: &Path) {
        let mut command = add_rights(jars, bootstrap, admin_properties);
        command
            .args(["--allow-principal", "User:job"])
            .args(["--producer", "--consumer", "--topic", "*", "--group", "*"])
            .args(["--transactional-id", "*"]);
        install::run(&mut command);
    }

    /// Takes one of them away: to write to a topic.
    pub(super) fn forbid_writing(
        jars: &Path,
        bootstrap: &str,
        admin_properties: &Path,
        topic: &str,
    ) {
        let mut command = add_rights(jars, bootstrap, admin_properties);
        command
            .args(["--deny-principal", "User:job", "--operation", "Write"])
            .args(["--topic", topic]);
        install::run(&mut command);
    }
}

fn add_rights(jars: &Path, bootstrap: &str, admin_properties: &Path) -> Command {
    let mut command = install::java(jars, 256, "org.apache.kafka.tools.AclCommand");
    command
        .args(["--bootstrap-server", bootstrap, "--command-config"])
        .arg(admin_properties)
        .args(["--add", "--force"]);
    command
}

fn jaas(login: Login) -> String {
    format!(
        "org.apache.kafka.common.security.scram.ScramLoginModule required \
         username=\"{}\" password=\"{}\";",
        login.user(),
        login.password()
    )
}

fn openssl(folder: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command
        .args(arguments.split_whitespace())
        .current_dir(folder);
    let output = command
        .output()
        .expect("openssl is installed: see scripts/install-missing.sh");
    assert!(
        output.status.success(),
        "openssl {arguments} failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
