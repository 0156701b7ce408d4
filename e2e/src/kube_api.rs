//! An API server's objects as JSON, asked for by tests that wait for the
//! answer.

use std::time::Duration;

use blixt_testkit::netns::{Namespace, eventually_some};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Who the tests are among those who apply.
const MANAGER: &str = "blixt-test";

/// How long an object may take to become what a test expects.
const PATIENCE: Duration = Duration::from_secs(20);

/// The way to an API server inside a namespace.
pub struct KubeApi {
    client: Client,
    /// Its threads are inside.
    runtime: Runtime,
}

impl std::fmt::Debug for KubeApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeApi").finish_non_exhaustive()
    }
}

impl KubeApi {
    /// Speaks to the server that a kubeconfig leads to, from a namespace.
    pub fn new(namespace: &Namespace, kubeconfig: &str) -> Self {
        let kubeconfig = kube::config::Kubeconfig::from_yaml(kubeconfig).unwrap();
        // Threads are where the one was that made them.
        let runtime = namespace.inside(|| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(1).enable_all().build().unwrap()
        });
        let made = runtime.spawn(async move {
            let mut config =
                Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
            config.read_timeout = Some(Duration::from_secs(10));
            Client::try_from(config).unwrap()
        });
        let client = runtime.block_on(made).unwrap();
        Self { client, runtime }
    }

    /// What the server says to a question, such as `/readyz`.
    pub fn ask(&self, path: &str) -> Result<String, String> {
        let client = self.client.clone();
        let path = path.to_owned();
        self.wait(async move {
            let request = http::Request::get(path).body(Vec::new()).unwrap();
            client.request_text(request).await.map_err(|error| error.to_string())
        })
    }

    /// Applies all objects of a YAML text, as `kubectl apply --server-side`
    /// does.
    pub fn apply(&self, yaml: &str) {
        for object in documents(yaml) {
            self.apply_object(&object).unwrap_or_else(|error| panic!("{error}: {object:#}"));
        }
    }

    /// Applies one object.
    pub fn apply_object(&self, object: &Value) -> Result<Value, kube::Error> {
        let (api, name) = self.api_of(object);
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(object.clone());
        self.wait(async move { api.patch(&name, &params, &patch).await }).map(json_of)
    }

    /// One object, if it is there.
    pub fn get(&self, id: &Id<'_>) -> Option<Value> {
        let (api, name) = (self.api(id), id.name.to_owned());
        self.wait(async move { api.get_opt(&name).await }).unwrap().map(json_of)
    }

    /// All objects of a kind.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource(kind));
        let list = self.wait(async move { api.list(&ListParams::default()).await }).unwrap();
        let mut objects: Vec<_> = list.items.into_iter().map(json_of).collect();
        for object in &mut objects {
            // In a list nobody says it.
            object["kind"] = kind.into();
        }
        objects
    }

    /// Changes an object by a merge patch.
    pub fn merge(&self, id: &Id<'_>, patch: Value) -> Value {
        let (api, name) = (self.api(id), id.name.to_owned());
        let patch = Patch::Merge(patch);
        json_of(
            self.wait(async move { api.patch(&name, &PatchParams::default(), &patch).await })
                .unwrap(),
        )
    }

    /// Writes the status of an object, as another controller would.
    pub fn merge_status(&self, id: &Id<'_>, status: Value) -> Value {
        let (api, name) = (self.api(id), id.name.to_owned());
        let patch = Patch::Merge(json!({"status": status}));
        let written = self
            .wait(async move { api.patch_status(&name, &PatchParams::default(), &patch).await });
        json_of(written.unwrap())
    }

    /// Makes an object that is not there yet; gives what the server says
    /// against it.
    pub fn create(&self, object: &Value) -> Result<Value, kube::Error> {
        let (api, _) = self.api_of(object);
        let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        self.wait(async move { api.create(&PostParams::default(), &object).await }).map(json_of)
    }

    /// Removes an object. One that is not there is a mistake of the test.
    pub fn delete(&self, id: &Id<'_>) {
        let (api, name) = (self.api(id), id.name.to_owned());
        self.wait(async move { api.delete(&name, &DeleteParams::default()).await }).unwrap();
    }

    /// Removes all objects of a kind, finalizers or not.
    pub fn delete_all(&self, kind: &str) {
        for object in self.list(kind) {
            let id = Id::of(&object);
            if object.pointer("/metadata/finalizers").is_some() {
                self.merge(&id, json!({"metadata": {"finalizers": null}}));
            }
            let (api, name) = (self.api(&id), id.name.to_owned());
            // It may have gone with its finalizers.
            let _ = self.wait(async move { api.delete(&name, &DeleteParams::default()).await });
        }
    }

    /// Waits until an object is as `expect` wants it, or panics with what it
    /// says is wrong.
    pub fn eventually<T>(
        &self,
        id: &Id<'_>,
        mut expect: impl FnMut(&Value) -> Result<T, String>,
    ) -> T {
        eventually_some(id, PATIENCE, || match self.get(id) {
            Some(object) => expect(&object).map_err(|why| format!("{why}: {object:#}")),
            None => Err("it is not there".to_owned()),
        })
    }

    /// A token of a service account, for an audience; bound to a pod if one is
    /// named.
    pub fn token(&self, account: &Id<'_>, audience: &str, pod: Option<&str>) -> String {
        let (namespace, name) = (account.namespace.unwrap(), account.name);
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let pod = pod.map(|name| json!({"apiVersion": "v1", "kind": "Pod", "name": name}));
        let asked = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [audience], "boundObjectRef": pod},
        });
        let client = self.client.clone();
        let made: Value = self.wait(async move {
            let request = http::Request::post(path).body(serde_json::to_vec(&asked).unwrap());
            client.request(request.unwrap()).await.unwrap()
        });
        made["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Does something with a client of its own, from where the server is.
    pub fn with<T, F>(&self, ask: impl FnOnce(Client) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.wait(ask(self.client.clone()))
    }

    fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.block_on(self.runtime.spawn(future)).unwrap()
    }

    fn api(&self, id: &Id<'_>) -> Api<DynamicObject> {
        let (client, resource) = (self.client.clone(), resource(id.kind));
        match id.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        }
    }

    fn api_of(&self, object: &Value) -> (Api<DynamicObject>, String) {
        let id = Id::of(object);
        (self.api(&id), id.name.to_owned())
    }
}

/// Which object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id<'a> {
    kind: &'a str,
    namespace: Option<&'a str>,
    name: &'a str,
}

impl<'a> Id<'a> {
    /// One of a kind, by `NAMESPACE/NAME` or `NAME`.
    pub fn new(kind: &'a str, name: &'a str) -> Self {
        match name.split_once('/') {
            Some((namespace, name)) => Self { kind, namespace: Some(namespace), name },
            None => Self { kind, namespace: None, name },
        }
    }

    /// One of a kind that lives in no namespace.
    pub const fn cluster(kind: &'a str, name: &'a str) -> Self {
        Self { kind, namespace: None, name }
    }

    /// One of a kind that lives in namespaces.
    pub const fn namespaced(kind: &'a str, namespace: &'a str, name: &'a str) -> Self {
        Self { kind, namespace: Some(namespace), name }
    }

    /// That of an object.
    pub fn of(object: &'a Value) -> Self {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        Self {
            kind: text("/kind").unwrap(),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name").unwrap(),
        }
    }
}

impl std::fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// The documents of a YAML text.
fn documents(yaml: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    all.into_iter().filter(|document| !document.is_null()).collect()
}

fn json_of(object: DynamicObject) -> Value {
    serde_json::to_value(object).unwrap()
}

fn resource(kind: &str) -> ApiResource {
    let (group, version) = match kind {
        "Namespace" | "Service" | "Node" | "ConfigMap" | "Secret" | "ServiceAccount" | "Pod" => {
            ("", "v1")
        }
        "EndpointSlice" => ("discovery.k8s.io", "v1"),
        "Lease" => ("coordination.k8s.io", "v1"),
        "Event" => ("events.k8s.io", "v1"),
        "CustomResourceDefinition" => ("apiextensions.k8s.io", "v1"),
        "ClusterRole" | "ClusterRoleBinding" | "Role" | "RoleBinding" => {
            ("rbac.authorization.k8s.io", "v1")
        }
        "ReferenceGrant" | "GatewayClass" | "Gateway" | "ListenerSet" | "HTTPRoute"
        | "TLSRoute" | "TCPRoute" | "UDPRoute" => ("gateway.networking.k8s.io", "v1"),
        "AddressPool" | "GatewayConfig" => ("blixt.dev", "v1alpha1"),
        other => panic!("of which group is {other}?"),
    };
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}
