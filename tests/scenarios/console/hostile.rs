//! Requests that no page of the console makes.

use super::*;

async fn hostile(client: &Client, headers: &[(&str, &str)], method: &str, path: &str, body: impl Into<Body>) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client.send(request.body(body.into()).unwrap()).await
}

const START: &str = "/api/v1/migrations/tenant/start";

#[tokio::test(start_paused = true)]
async fn requests_of_other_sites_are_refused_and_do_nothing() {
    let console = Bench::with_orders(1).console();
    let client = Client::of(&console);
    let json = ("content-type", "application/json");
    let own = ("host", "127.0.0.1:9000");
    for (headers, status) in [
        // A name of another site that leads to this machine.
        (vec![("host", "rebound.evil.example"), json], 421),
        (vec![json], 421),
        (vec![own, json, ("origin", "http://evil.example")], 403),
        (vec![own, json, ("origin", "null")], 403),
        (vec![own, json, ("sec-fetch-site", "cross-site")], 403),
        (vec![own, json, ("sec-fetch-site", "same-site")], 403),
        // What a form of another site can send.
        (vec![own, ("content-type", "text/plain")], 415),
        (vec![own, ("content-type", "application/x-www-form-urlencoded")], 415),
        (vec![own, ("content-type", "multipart/form-data; boundary=x")], 415),
        (vec![own], 415),
    ] {
        let answer = hostile(&client, &headers, "POST", START, "{}").await;
        answer.problem(status);
        assert_eq!(client.detail("tenant").await["state"], "created", "{headers:?}");
    }
    for path in ["/", "/api/v1/migrations", "/api/v1/openapi.json"] {
        hostile(&client, &[("host", "rebound.evil.example")], "GET", path, "")
            .await
            .problem(421);
    }
    let answer = hostile(&client, &[own, ("origin", "http://evil.example")], "OPTIONS", START, "").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    let same = [
        own,
        json,
        ("origin", "http://127.0.0.1:9000"),
        ("sec-fetch-site", "same-origin"),
    ];
    assert_eq!(hostile(&client, &same, "POST", START, "{}").await.status, 202);
}

#[tokio::test(start_paused = true)]
async fn other_hosts_are_known_if_the_host_says_so() {
    let console = Console::builder().allow_host("console.example.com").build();
    let client = Client::of(&console);
    let list = async |host| {
        hostile(&client, &[("host", host)], "GET", "/api/v1/migrations", "")
            .await
            .status
    };
    assert_eq!(list("console.example.com").await, 200);
    assert_eq!(list("console.example.com.evil.example").await, 421);
}

#[tokio::test(start_paused = true)]
async fn bodies_that_do_not_fit_are_refused_and_never_repeated() {
    let console = Console::builder().allow_create(true).build();
    let client = Client::of(&console);
    let headers = [
        ("host", "localhost"),
        ("content-type", "application/json; charset=utf-8"),
    ];
    let large = format!("{{\"id\": \"{}\"}}", "s3cret".repeat(20_000));
    for (body, status) in [
        ("{\"id\": s3cret".to_owned(), 400),
        (String::new(), 400),
        ("[\"s3cret\"]".to_owned(), 422),
        (
            "{\"id\": \"a\", \"source\": {\"uri\": \"mongodb://ann:s3cret@h\", \"s3cret\": 1}}".to_owned(),
            422,
        ),
        (
            "{\"id\": \"a\", \"source\": {\"uri\": \"mongodb://ann:s3cret@h\"}, \"walkers\": \"s3cret\"}".to_owned(),
            422,
        ),
        (
            "{\"id\": \"a\", \"source\": {\"uri\": \"mongodb://ann:s3cret@h\"}}".to_owned(),
            422,
        ),
        (large, 413),
    ] {
        let answer = hostile(&client, &headers, "POST", "/api/v1/migrations", body).await;
        answer.problem(status);
        assert!(!answer.text().contains("s3cret"), "{}", answer.text());
    }
    // Without a length, the body is read only as far as it may go.
    let endless = futures::stream::repeat_with(|| std::io::Result::Ok("x".repeat(1 << 10)));
    let answer = hostile(
        &client,
        &headers,
        "POST",
        "/api/v1/migrations",
        Body::from_stream(endless),
    )
    .await;
    answer.problem(413);
    assert_eq!(client.get("migrations").await.json(), json!({ "migrations": [] }));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_exist_is_a_problem() {
    let console = Bench::with_orders(1).console();
    let client = Client::of(&console);
    for path in [
        "/nothing.js",
        "/api",
        "/api/v1",
        "/api/v1/nothing",
        "/api/v1/migrations/none",
        "/../Cargo.toml",
        "/page%2Findex.html",
    ] {
        client.get(path).await.problem(404);
    }
    client.get("progress").await.problem(404);
    client.get("migrations/tenant/recording").await.problem(404);
    client.get("migrations/tenant/certificate").await.problem(404);
    client.get("migrations/tenant/status").await.problem(404);
    client.with_body("PUT", "migrations", json!({})).await.problem(405);
    client.get("migrations/tenant/start").await.problem(405);
    client.delete("console").await.problem(405);
    client.post("/", json!({})).await.problem(405);
}

#[tokio::test(start_paused = true)]
async fn people_enter_connections_only_if_the_host_allows_it() {
    let console = Bench::with_orders(1).console();
    let client = Client::of(&console);
    let side = json!({ "uri": "mongodb://ann:s3cret@127.0.0.1:1/" });
    client
        .post("migrations", json!({ "id": "a", "source": side, "target": side }))
        .await
        .problem(403);
    client
        .with_body("PUT", "migrations/tenant/endpoints", json!({ "source": side }))
        .await
        .problem(403);
    assert_eq!(client.get("console").await.json()["can_create"], false);

    let console = Console::builder().allow_create(true).build();
    console.add(Bench::with_orders(1).managed("tenant")).unwrap();
    let client = Client::of(&console);
    client
        .with_body("PUT", "migrations/tenant/endpoints", json!({ "source": side }))
        .await
        .problem(409);
    let body = json!({ "id": "a", "source": side, "target": side, "existing_data": "keep" });
    let created = client.post("migrations", body.clone()).await;
    assert_eq!(
        (created.status.as_u16(), &created.headers["location"]),
        (201, &"migrations/a".parse().unwrap())
    );
    let detail = created.json();
    assert_eq!(
        (&detail["state"], &detail["origin"]),
        (&json!("created"), &json!("page"))
    );
    assert_eq!(
        (&detail["source"]["hosts"], &detail["settings"]["existing_data"]),
        (&json!(["127.0.0.1:1"]), &json!("keep"))
    );
    for answer in [
        created,
        client.get("migrations/a").await,
        client.get("migrations").await,
    ] {
        assert!(
            !answer.text().contains("s3cret") && !answer.text().contains("ann"),
            "{}",
            answer.text()
        );
    }
    assert!(!format!("{console:?}").contains("s3cret"));
    client.post("migrations", body).await.problem(422);
    let changed = client
        .with_body("PUT", "migrations/a/endpoints", json!({ "walkers": 2 }))
        .await
        .json();
    assert_eq!(
        (&changed["settings"]["walkers"], &changed["settings"]["existing_data"]),
        (&json!(2), &json!("keep"))
    );
    assert_eq!(client.delete("migrations/a").await.status, 204);
    client.get("migrations/a").await.problem(404);
}

#[tokio::test(start_paused = true)]
async fn every_answer_forbids_what_the_page_does_not_need() {
    let console = Bench::with_orders(1).console();
    let client = Client::of(&console);
    for path in ["/", "migrations", "/nothing", "migrations/tenant/events"] {
        let response = client
            .0
            .clone()
            .oneshot(request("GET", path).body(Body::empty()).unwrap())
            .await
            .unwrap();
        let headers = response.headers();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert!(
            policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'none'"),
            "{policy}"
        );
        assert_eq!(
            (&headers["x-content-type-options"], &headers["referrer-policy"]),
            (&"nosniff".parse().unwrap(), &"no-referrer".parse().unwrap())
        );
        assert!(!headers.contains_key("set-cookie") && !headers.contains_key("access-control-allow-origin"));
        let cached = if path == "/" { "no-cache" } else { "no-store" };
        assert_eq!(headers["cache-control"], cached, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_page_is_found_wherever_the_router_is_nested() {
    let console = Bench::with_orders(1).console();
    let nested = Client(Router::new().nest("/some/secret", router(console.clone())));
    let service = Client(Router::new().nest_service("/some/secret", router(console.clone())));
    let parameter = Client(Router::new().nest_service("/{tenant}/console", router(console.clone())));
    let root = Client::of(&console);
    for (client, base, page) in [
        (&nested, "/some/secret", "/some/secret/index.html"),
        (&service, "/some/secret", "/some/secret/"),
        (&parameter, "/x/console", "/x/console/"),
        (&root, "", "/"),
    ] {
        let shown = client.get(page).await;
        assert_eq!(
            (shown.status.as_u16(), &shown.headers["content-type"]),
            (200, &"text/html; charset=utf-8".parse().unwrap())
        );
        let request = request("GET", page).header("if-none-match", &shown.headers["etag"]);
        assert_eq!(client.send(request.body(Body::empty()).unwrap()).await.status, 304);
        let path = format!("{base}/api/v1/migrations/tenant");
        assert_eq!(client.get(&path).await.json()["id"], "tenant");
        client.get(&format!("{base}/api/v1/nothing")).await.problem(404);
        assert_eq!(client.get(&format!("{base}/index.html")).await.bytes, shown.bytes);
    }
    // Without the slash, the browser is sent to where relative addresses work.
    for client in [&nested, &service] {
        let sent_on = client.get("/some/secret").await;
        let location = &sent_on.headers["location"];
        assert_eq!(
            (sent_on.status.as_u16(), location),
            (307, &"./secret/index.html".parse().unwrap())
        );
    }
    assert_eq!(nested.get("/other/").await.status, 404);
}

/// Both come from one table, so what is described exists, and the other way round.
#[tokio::test(start_paused = true)]
async fn what_is_described_is_there() {
    let bench = Bench::with_orders(1);
    let client = Client::of(&Console::single(bench.managed("tenant")).unwrap());
    let api = client.get("openapi.json").await.json();
    assert_eq!(api["openapi"], "3.1.0");
    let mut count = 0;
    for (path, methods) in api["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{id}", "tenant");
            let request = request(&method.to_uppercase(), &path).header("content-type", "application/json");
            let response = client
                .0
                .clone()
                .oneshot(request.body(Body::from("[]")).unwrap())
                .await
                .unwrap();
            let status = response.status();
            assert_ne!(status, 405, "{method} {path}");
            if status == 404 {
                let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
                assert!(
                    !String::from_utf8_lossy(&body).contains("there is nothing here"),
                    "{method} {path}"
                );
            }
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}
