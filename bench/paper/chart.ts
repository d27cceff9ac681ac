import * as echarts from 'echarts'

export interface Series {
  readonly name: string
  readonly points: readonly { readonly x: string; readonly y: number }[]
}

/** A line chart over named places on the x axis, as SVG. */
export function lineChart(title: string, xName: string, yName: string, xs: readonly string[], series: readonly Series[]): string {
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, width: 640, height: 400 })
  chart.setOption({
    animation: false,
    backgroundColor: '#fff',
    title: { text: title, left: 'center', textStyle: { fontSize: 14 } },
    legend: { bottom: 0 },
    grid: { left: 60, right: 20, top: 40, bottom: 70 },
    xAxis: { type: 'category', data: [...xs], name: xName, nameLocation: 'middle', nameGap: 26 },
    yAxis: { type: 'value', name: yName, nameLocation: 'middle', nameGap: 40, min: 0 },
    series: series.map((s) => ({
      type: 'line',
      name: s.name,
      data: xs.map((x) => s.points.find((p) => p.x === x)?.y ?? null),
    })),
  })
  const svg = chart.renderToSVGString()
  chart.dispose()
  return svg
}
