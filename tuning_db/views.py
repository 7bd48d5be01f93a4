"""Views of the tables, for people who ask them by hand, in Datasette, say.

Nothing of this package reads a view, so nothing rests on what one computes: the rules are in `ranking`, with
checksums, and these tell them over in SQL. JSON is taken apart here alone; a connection with trusted_schema
off, as this package's own are, may not ask a view that does.
"""

from __future__ import annotations

VIEWS = (
    """CREATE VIEW problem_texts AS  -- each problem as a person writes it, without what is at its default
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
    FROM problems p""",
    """CREATE VIEW machines AS  -- each environment: the fields of these names, where there are such
    SELECT id AS environment_id, device, arch, json_extract(doc, '$.hard.triton') AS triton
    FROM environments""",
    """CREATE VIEW best AS  -- of each problem and environment, over all sources; of the best provenance
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
        WHEN 'measured' THEN 1 WHEN 'contended' THEN NOT w.any_measured ELSE NOT w.any_timed END""",
    """CREATE VIEW ranked AS  -- every trial; those that compete have a place by their time, 1 is the fastest
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
    FROM placed t JOIN problem_texts x USING (problem_id) JOIN machines m USING (environment_id)""",
    """CREATE VIEW missed AS  -- what was asked for and had no entry
    SELECT x.problem, m.device, m.triton, s.calls, s.served, s.first_seen, s.last_seen, m.arch, s.problem_id,
        s.environment_id
    FROM misses s JOIN problem_texts x USING (problem_id) JOIN machines m USING (environment_id)""",
)
