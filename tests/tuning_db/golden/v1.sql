PRAGMA application_id=1953842242;
PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'tuning_db','0001_tables','2026-01-01 00:00:00+00:00');
CREATE TABLE environments (
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,  -- of the hard and soft fields
    hard_hash TEXT NOT NULL,
    arch TEXT,  -- the field of that name, where there is one
    device TEXT,  -- likewise
    doc TEXT NOT NULL  -- {"hard": {...}, "soft": {...}}
) STRICT;
INSERT INTO "environments" VALUES(1,'5b4415f3030649e21205139f5613be459178ab3cc9cd595163fbc8a41f9dd75e','26173fba9413fe7dd65f14935decdfd053b3dbf8ec22ecd1cbb2255aebb66954','sm_89','L4','{"hard":{"arch":"sm_89","toolchain":"3.6"},"soft":{"device":"L4","driver":"570"}}');
INSERT INTO "environments" VALUES(2,'cf91165312a152b7eeb370ece7cc5f632b73167e9c9975b777d4fb2ac61adc70','48029cef87070d7834d0581793fa1fde04ea5cdca12d848478378a592b8e19e8','sm_90','H100','{"hard":{"arch":"sm_90","toolchain":"3.6"},"soft":{"device":"H100","driver":null}}');
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
INSERT INTO "meta" VALUES('application','golden');
CREATE TABLE misses (  -- what was asked for and had no entry
    id INTEGER PRIMARY KEY,
    problem_id INTEGER NOT NULL REFERENCES problems (id),
    environment_id INTEGER NOT NULL REFERENCES environments (id),
    calls INTEGER NOT NULL,
    served TEXT NOT NULL,  -- meanwhile
    first_seen TEXT NOT NULL,  -- UTC, ISO 8601
    last_seen TEXT NOT NULL,
    checksum TEXT NOT NULL,
    UNIQUE (problem_id, environment_id)
) STRICT;
INSERT INTO "misses" VALUES(1,3,1,12,'torch','2026-01-01T00:00:00+00:00','2026-01-02T00:00:00+00:00','a536642de768e5ab051b6b1492cf6413de18092d10969899ffcb9fac75c78c7c');
CREATE TABLE problem_sizes (  -- to find near problems by
    problem_id INTEGER PRIMARY KEY REFERENCES problems (id),
    kind INTEGER NOT NULL,  -- hash of the text columns
    log_size REAL NOT NULL  -- sum of the integer columns' logarithms
) STRICT;
INSERT INTO "problem_sizes" VALUES(1,1132623429840070821,0.0);
INSERT INTO "problem_sizes" VALUES(2,1132623429840070821,6.0);
INSERT INTO "problem_sizes" VALUES(3,297621391269253444,2.80735492205760417405e+00);
CREATE TABLE problems (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE
, "N" INTEGER, "dtype" TEXT) STRICT;
INSERT INTO "problems" VALUES(1,'N=1,dtype=float16',1,'float16');
INSERT INTO "problems" VALUES(2,'N=64,dtype=float16',64,'float16');
INSERT INTO "problems" VALUES(3,'N=7,dtype=float32',7,'float32');
CREATE TABLE quarantine (  -- lines that an import refused
    line_hash TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    line TEXT NOT NULL
) STRICT;
CREATE TABLE runs (
    id TEXT PRIMARY KEY,  -- a UUID
    environment_id INTEGER NOT NULL REFERENCES environments (id),
    origin TEXT NOT NULL,
    info TEXT NOT NULL,
    finished INTEGER NOT NULL CHECK (finished IN (0, 1))  -- 0: under way, or interrupted
) STRICT;
INSERT INTO "runs" VALUES('00000000-0000-4000-8000-000001000002',1,'sweep','{"seconds":1.5}',1);
INSERT INTO "runs" VALUES('00000000-0000-4000-8000-000001000001',2,'sweep','{"seconds":1.5}',1);
INSERT INTO "runs" VALUES('00000000-0000-4000-8000-000064000002',1,'sweep','{"seconds":1.5}',1);
INSERT INTO "runs" VALUES('00000000-0000-4000-8000-000064000001',2,'sweep','{"seconds":1.5}',1);
INSERT INTO "runs" VALUES('00000000-0000-4000-8000-000000000777',1,'predicted','{}',0);
CREATE TABLE trials (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (id),
    problem_id INTEGER NOT NULL REFERENCES problems (id),
    config_hash TEXT NOT NULL,
    config TEXT NOT NULL,
    source TEXT NOT NULL,  -- names the code that was tried
    predictor TEXT NOT NULL,  -- names what predicted; empty where nothing did
    outcome TEXT NOT NULL CHECK (outcome IN ('started', 'ok', 'compiled', 'resources', 'compile', 'launch', 'wrong', 'timeout', 'crash')),
    predicted_us REAL,
    measured_us REAL,  -- the median of the samples; beside other work where the detail says contended
    samples_us TEXT NOT NULL,
    max_err REAL,
    error TEXT,
    detail TEXT NOT NULL,
    checksum TEXT NOT NULL,
    UNIQUE (problem_id, run_id, config_hash, source)
) STRICT;
INSERT INTO "trials" VALUES(1,'00000000-0000-4000-8000-000001000002',1,'007693462d5e7aaf12c5fdb0720cc3aa694f6fcd7954437c07037868e4b8e72b','{"B":32}','5f2e','m1','ok',9.0,21.0,'[20.0,22.0,21.0]',1.0e-07,NULL,'{"default":true,"registers":40}','d234e157d5a1929682ebd06cd7fb81654e414b3f9f9933a112c500adb1d77a1f');
INSERT INTO "trials" VALUES(2,'00000000-0000-4000-8000-000001000002',1,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','5f2e','m1','ok',9.5,16.5,'[16.0,16.5,17.0]',2.0e-07,NULL,'{"log":["\u00b5s",null]}','482f336adeaa00a7e4f2fb20da2f64a411178163720fc49eb7e6cd543a5cebdc');
INSERT INTO "trials" VALUES(3,'00000000-0000-4000-8000-000001000002',1,'69b0c43003d1924f1ef4876c1c11d301cc06c266531d999efe4d21afa20e1a84','{"B":128}','5f2e','','wrong',NULL,NULL,'[]',0.5,'0.5 > 1e-3','{}','b874d6b7728f43e2fea5aca94e7267a97dd11799eedcfaa6c77da08cb9ce3300');
INSERT INTO "trials" VALUES(4,'00000000-0000-4000-8000-000001000002',1,'6a0ec437870b42be32efe376cb9ce8b85f5351de0e5baab910c66cd480ad37f6','{"B":256}','5f2e','','resources',NULL,NULL,'[]',NULL,'needs 160 KiB of shared memory','{}','4cfdb2fb268e304f327fec8661c90fd888245db4bee19399fcd96ba41ce6a712');
INSERT INTO "trials" VALUES(5,'00000000-0000-4000-8000-000001000001',1,'007693462d5e7aaf12c5fdb0720cc3aa694f6fcd7954437c07037868e4b8e72b','{"B":32}','5f2e','m1','ok',9.0,10.5,'[10.0,11.0,10.5]',1.0e-07,NULL,'{"default":true,"registers":40}','6212d354767b24b1165df81117793f516150c0fc1e13d9b0311a8721b774b29e');
INSERT INTO "trials" VALUES(6,'00000000-0000-4000-8000-000001000001',1,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','5f2e','m1','ok',9.5,8.25,'[8.0,8.25,8.5]',2.0e-07,NULL,'{"log":["\u00b5s",null]}','b62936bb7ec3e7411fee52fcdca3a407c9b4d2a05c3550776fc81be4cc4bd319');
INSERT INTO "trials" VALUES(7,'00000000-0000-4000-8000-000001000001',1,'69b0c43003d1924f1ef4876c1c11d301cc06c266531d999efe4d21afa20e1a84','{"B":128}','5f2e','','wrong',NULL,NULL,'[]',0.5,'0.5 > 1e-3','{}','1f3dab1ee36dab8f2c9232d7ac3e06932d8331da751a08c5d424a5ad6ee406ba');
INSERT INTO "trials" VALUES(8,'00000000-0000-4000-8000-000001000001',1,'6a0ec437870b42be32efe376cb9ce8b85f5351de0e5baab910c66cd480ad37f6','{"B":256}','5f2e','','resources',NULL,NULL,'[]',NULL,'needs 160 KiB of shared memory','{}','124de473ad5296075c8ca425d3b1af8b920d1f468886c99f30e1cf5a1a364e10');
INSERT INTO "trials" VALUES(9,'00000000-0000-4000-8000-000064000002',2,'007693462d5e7aaf12c5fdb0720cc3aa694f6fcd7954437c07037868e4b8e72b','{"B":32}','5f2e','m1','ok',576.0,1344.0,'[1280.0,1408.0,1344.0]',1.0e-07,NULL,'{"default":true,"registers":40}','7ea3844a03d466c3bd79fb0e37a8b2a06480c8fbf043b3d4c6ef2818b136c551');
INSERT INTO "trials" VALUES(10,'00000000-0000-4000-8000-000064000002',2,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','5f2e','m1','ok',608.0,1056.0,'[1024.0,1056.0,1088.0]',2.0e-07,NULL,'{"log":["\u00b5s",null]}','90731a21903f3afc3c5a126a3bc95cc2d8152ef04e7fc1b54ec739c1df18cacc');
INSERT INTO "trials" VALUES(11,'00000000-0000-4000-8000-000064000002',2,'69b0c43003d1924f1ef4876c1c11d301cc06c266531d999efe4d21afa20e1a84','{"B":128}','5f2e','','wrong',NULL,NULL,'[]',0.5,'0.5 > 1e-3','{}','365724f103271b498ac55aa7958259e6832ff33d5410efd28c1edf27b0435cc3');
INSERT INTO "trials" VALUES(12,'00000000-0000-4000-8000-000064000002',2,'6a0ec437870b42be32efe376cb9ce8b85f5351de0e5baab910c66cd480ad37f6','{"B":256}','5f2e','','resources',NULL,NULL,'[]',NULL,'needs 160 KiB of shared memory','{}','a3376a8d02b4a5dbeaeff169a4e93c40a3ec8211b8141740e2e928dd5fa462a7');
INSERT INTO "trials" VALUES(13,'00000000-0000-4000-8000-000064000001',2,'007693462d5e7aaf12c5fdb0720cc3aa694f6fcd7954437c07037868e4b8e72b','{"B":32}','5f2e','m1','ok',576.0,672.0,'[640.0,704.0,672.0]',1.0e-07,NULL,'{"default":true,"registers":40}','ac68075f8c4737b2d72432ff3ab6d0a3631e2f00e6e20bd0eeea45e319674341');
INSERT INTO "trials" VALUES(14,'00000000-0000-4000-8000-000064000001',2,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','5f2e','m1','ok',608.0,528.0,'[512.0,528.0,544.0]',2.0e-07,NULL,'{"log":["\u00b5s",null]}','5f2691cc50dca6a3c027792965e9abc80cbab57244bc5257205dee09d04556ff');
INSERT INTO "trials" VALUES(15,'00000000-0000-4000-8000-000064000001',2,'69b0c43003d1924f1ef4876c1c11d301cc06c266531d999efe4d21afa20e1a84','{"B":128}','5f2e','','wrong',NULL,NULL,'[]',0.5,'0.5 > 1e-3','{}','0e61fc63fec5e04eb9fc2bd7bfff6335a89910668db9601ad73747985bd6b1b5');
INSERT INTO "trials" VALUES(16,'00000000-0000-4000-8000-000064000001',2,'6a0ec437870b42be32efe376cb9ce8b85f5351de0e5baab910c66cd480ad37f6','{"B":256}','5f2e','','resources',NULL,NULL,'[]',NULL,'needs 160 KiB of shared memory','{}','c3456c136f75d782d1c43bb92cb209f8c3c53b846896be1065bacc760652aae3');
INSERT INTO "trials" VALUES(17,'00000000-0000-4000-8000-000000000777',3,'611fba461222a960ae024eefbdf35523078f787a91b5ce3435b658c8fa0ff543','{"B":16}','5f2e','m1','ok',3.0,NULL,'[]',NULL,NULL,'{}','a432d1909f621441a28002971a1db5d026d0179aa7ef2e52477696efdb28c336');
INSERT INTO "trials" VALUES(18,'00000000-0000-4000-8000-000000000777',3,'215cbe166962dd7ebc1ac10f68f2d3cbb4ff03ccd2b087f1bf34fbc343c683a5','{"B":512}','5f2e','','started',NULL,NULL,'[]',NULL,NULL,'{}','8f40040de68d4b957bf6f61e1634c5bb22e681319ea9f0dc5733e7dffe6e8176');
CREATE TABLE winners (  -- the best of each source
    id INTEGER PRIMARY KEY,
    environment_id INTEGER NOT NULL REFERENCES environments (id),
    problem_id INTEGER NOT NULL REFERENCES problems (id),
    source TEXT NOT NULL,
    predictor TEXT NOT NULL,  -- empty where timed
    config_hash TEXT NOT NULL,
    config TEXT NOT NULL,
    provenance TEXT NOT NULL CHECK (provenance IN ('measured', 'contended', 'predicted')),
    measured_us REAL,  -- beside other work where the provenance is contended
    predicted_us REAL,
    max_err REAL,
    margin REAL,  -- runner-up / winner - 1
    ties INTEGER NOT NULL,
    noise REAL,  -- median deviation of the samples, over their median
    default_us REAL,  -- of the default configuration
    finished INTEGER NOT NULL CHECK (finished IN (0, 1)),  -- 0: of interrupted runs alone
    detail TEXT NOT NULL,
    checksum TEXT NOT NULL,
    UNIQUE (problem_id, environment_id, source, predictor)
) STRICT;
INSERT INTO "winners" VALUES(1,1,1,'5f2e','','b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','measured',16.5,9.5,2.0e-07,2.72727272727272707086e-01,0,3.03030303030303038713e-02,21.0,1,'{"log":["\u00b5s",null]}','54968f192a0a081ad7d5d240a233e645959a8f0b8272c2c04789aa04acf2cff5');
INSERT INTO "winners" VALUES(2,2,1,'5f2e','','b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','measured',8.25,9.5,2.0e-07,2.72727272727272707086e-01,0,3.03030303030303038713e-02,10.5,1,'{"log":["\u00b5s",null]}','abc9d48ce6ba0c9a03dbffc2881cabe081e57b0403683c65f23eca0656261bfc');
INSERT INTO "winners" VALUES(3,1,2,'5f2e','','b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','measured',1056.0,608.0,2.0e-07,2.72727272727272707086e-01,0,3.03030303030303038713e-02,1344.0,1,'{"log":["\u00b5s",null]}','51af522242416861d03c12a60d32161be2d75291b6a1c70ca19302325eac2c81');
INSERT INTO "winners" VALUES(4,2,2,'5f2e','','b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','measured',528.0,608.0,2.0e-07,2.72727272727272707086e-01,0,3.03030303030303038713e-02,672.0,1,'{"log":["\u00b5s",null]}','01d14a1f62dba8df252660d826e8dde695918d84cc49844d70819b5437120613');
INSERT INTO "winners" VALUES(5,1,3,'5f2e','m1','611fba461222a960ae024eefbdf35523078f787a91b5ce3435b658c8fa0ff543','{"B":16}','predicted',NULL,3.0,NULL,NULL,0,NULL,NULL,0,'{}','50f5507a23527813ee81e75e9d6a8d0bd3eda7b1000b6b083b452b915cb6c566');
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE TRIGGER finished_trials_are_immutable BEFORE UPDATE ON trials
WHEN old.outcome <> 'started'
BEGIN SELECT RAISE(ABORT, 'a finished trial is never changed'); END;
CREATE INDEX problem_sizes_by_kind ON problem_sizes (kind, log_size);
CREATE VIEW problem_texts AS  -- each problem as a person writes it, without what is at its default
SELECT p.id AS problem_id, coalesce(
    CASE WHEN json_valid(p.key) THEN (
        SELECT group_concat(
            f.key || '=' || replace(trim(json_extract(p.key, '$.' || f.key), '[]'), ',', ':'), ','
        )
        FROM meta m, json_each(m.value) f
        WHERE m.name = 'fields' AND json_extract(p.key, '$.' || f.key) IS NOT f.value
    ) END,
    p.key
) AS problem
FROM problems p;
CREATE VIEW machines AS  -- each environment: the fields of these names, where there are such
SELECT id AS environment_id, device, arch, json_extract(doc, '$.hard.triton') AS triton
FROM environments;
CREATE VIEW best AS  -- of each problem and environment, over all sources; of the best provenance
WITH tried AS (  -- the last run that tried a configuration, where runs note when they began
    SELECT t.problem_id, r.environment_id, t.config_hash, max(json_extract(r.info, '$.begun')) AS begun
    FROM trials t JOIN runs r ON r.id = t.run_id GROUP BY 1, 2, 3
), timed AS (  -- least_us: of the configurations that a source's winner was chosen from
    SELECT *, coalesce(measured_us, predicted_us) AS time_us,
        coalesce(measured_us, predicted_us) * (1 + min(coalesce(margin, 0), 0)) AS least_us,
        substr(predictor, 1, instr(predictor || '-', '-')) AS model,
        iif(provenance = 'measured', json_extract(detail, '$.race'), NULL) AS race,
        coalesce(
            json_extract(detail, '$.time_error') * json_extract(detail, '$.time_error'), 0
        ) AS variance,
        coalesce(json_extract(detail, '$.registers'), 0) AS registers,
        coalesce(json_extract(detail, '$.shared'), 0) AS shared
    FROM winners
), sorted AS (
    SELECT *, row_number() OVER by_time = 1 AS fastest, first_value(race) OVER by_time = race AS together,
        time_us / first_value(least_us) OVER by_time - 1 AS behind,
        first_value(variance) OVER by_time + variance AS variances,
        min(default_us) OVER of_model AS least_default_us,
        min(least_us) OVER (of_model ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
            EXCLUDE CURRENT ROW) / time_us - 1 AS ahead,
        max(provenance = 'measured') OVER (PARTITION BY problem_id, environment_id) AS any_measured,
        max(provenance <> 'predicted') OVER (PARTITION BY problem_id, environment_id) AS any_timed
    FROM timed WINDOW of_model AS (PARTITION BY problem_id, environment_id, provenance, model),
        by_time AS (
            PARTITION BY problem_id, environment_id, provenance, model ORDER BY least_us, config_hash
        )
), placed AS (  -- ties are chosen from by the fixed order
    SELECT *, row_number() OVER (
            PARTITION BY problem_id, environment_id, provenance, model
            ORDER BY NOT (fastest OR behind <= iif(provenance = 'predicted', 0.01, 0.02)
                AND (together IS NOT 1 OR behind * behind <= 4 * variances)),
                registers, shared, config, source
        ) AS place
    FROM sorted
)
SELECT x.problem, m.device, m.triton, json_extract(w.config, '$.kernel') AS kernel, w.provenance,
    iif(w.provenance = 'measured', w.measured_us, NULL) AS measured_us,
    iif(w.provenance = 'contended', w.measured_us, NULL) AS contended_us,  -- beside other work
    w.predicted_us, w.least_default_us AS default_us,
    -- the next best is the next of the same source, or the best of another
    round(100 * coalesce(min(w.margin, w.ahead), w.margin, w.ahead), 1) AS margin_pct,
    w.config, w.finished, b.begun AS "when", w.source, m.arch, w.problem_id, w.environment_id
FROM placed w JOIN problem_texts x USING (problem_id) JOIN machines m USING (environment_id)
LEFT JOIN tried b USING (problem_id, environment_id, config_hash)
WHERE w.place = 1 AND CASE w.provenance
    WHEN 'measured' THEN 1 WHEN 'contended' THEN NOT w.any_measured ELSE NOT w.any_timed END;
CREATE VIEW ranked AS  -- every trial; those that compete have a place by their time, 1 is the fastest
WITH told AS (
    SELECT t.*, r.environment_id, json_extract(r.info, '$.begun') AS begun,
        t.outcome = 'ok' AND NOT max(t.outcome = 'wrong') OVER (
            PARTITION BY t.problem_id, r.environment_id, t.config_hash, t.source
        ) AS sound,
        json_extract(t.detail, '$.contended') IS 1 AS contended
    FROM trials t JOIN runs r ON r.id = t.run_id
), ranked_by AS (
    SELECT *, max(sound AND measured_us IS NOT NULL AND NOT contended) OVER of_problem AS any_measured,
        max(sound AND measured_us IS NOT NULL) OVER of_problem AS any_timed
    FROM told WINDOW of_problem AS (PARTITION BY problem_id, environment_id)
), timed AS (
    SELECT *, CASE
            WHEN NOT sound OR any_measured AND contended THEN NULL
            WHEN any_timed THEN measured_us ELSE predicted_us
        END AS time_us,
        iif(any_timed, '', substr(predictor, 1, instr(predictor || '-', '-'))) AS model
    FROM ranked_by
), placed AS (
    SELECT *, time_us IS NOT NULL AS competes,
        rank() OVER (
            PARTITION BY problem_id, environment_id, model, time_us IS NOT NULL ORDER BY time_us
        ) AS place,
        min(time_us) OVER (PARTITION BY problem_id, environment_id, model) AS best_us
    FROM timed
)
SELECT x.problem, m.device, m.triton, iif(t.competes, t.place, NULL) AS place,
    round(100 * t.best_us / t.time_us, 1) AS pct_of_best, json_extract(t.config, '$.kernel') AS kernel,
    t.outcome, iif(t.contended, NULL, t.measured_us) AS measured_us,
    iif(t.contended, t.measured_us, NULL) AS contended_us, t.predicted_us, t.config, t.max_err, t.error,
    t.begun AS "when", t.source,
    t.run_id, m.arch, t.problem_id, t.environment_id
FROM placed t JOIN problem_texts x USING (problem_id) JOIN machines m USING (environment_id);
CREATE VIEW missed AS  -- what was asked for and had no entry
SELECT x.problem, m.device, m.triton, s.calls, s.served, s.first_seen, s.last_seen, m.arch, s.problem_id,
    s.environment_id
FROM misses s JOIN problem_texts x USING (problem_id) JOIN machines m USING (environment_id);
COMMIT;
